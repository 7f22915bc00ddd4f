"""Where states lie: in a slab of memory, or cold in snapshots; which series there are, and which are idle.

Knows state specs and snapshots; computes nothing. Read `store` first, then `slab` and `mirrors`; `snapshot_bytes` is
a state as bytes.
"""
