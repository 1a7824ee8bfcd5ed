"""One forward pass seen call by call, and one exact walk back over its graph."""
