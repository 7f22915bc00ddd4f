"""States advanced by what has just come, many series at once: compiled where they lie, or in torch.

Knows whole models; knows nothing of servers. Read `stepping` first, then `packed_step`; `ragged` is the plain way, by
a scan, which the compiled one must equal.
"""
