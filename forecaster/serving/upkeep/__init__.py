"""What goes on beside the requests: snapshots, pruning, erasing, series that become idle and that come back.

Knows the batcher, stores and storage; knows nothing of requests. Read `maintenance` first; `idling` and `returning`
are the two ways of an idle series.
"""
