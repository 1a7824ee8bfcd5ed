"""A running training, seen from beside it: what its steps leave behind, sampled, judged, kept in one file."""
