"""Training with Lightning: lanes of series walked in chunks with the recurrent state carried."""
