"""What a value may be, wherever one comes in: in files, in the client's frames, over the network."""

MAX_MAGNITUDE = 1e150  # sums and squares of such values are finite
