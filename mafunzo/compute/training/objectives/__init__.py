"""Training objectives: a batch in; loss, counts and metrics out. One file each."""
