"""One file a kind of evidence: what is measured besides the walk itself, each for a question a norm cannot answer."""
