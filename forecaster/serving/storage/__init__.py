"""The journal, which is the truth, and snapshots, a cache of its fold; two backends behind one contract.

Knows records and series' ids; knows nothing of models, tensors or gRPC. Read `contract` first, then `records` (the
format of the journal, a write-ahead log); `opening` makes one of `--serving.state`.
"""
