"""The engine of one registered model: plan a turn, judge, append to the journal, apply; forecast.

One thread calls it. Knows lanes and the journal; knows nothing of gRPC or SQL. Read `batcher` first (the queue before
it), then `engine`, `micro_batch` and `turns`; `isolation` says whom a failure reaches.
"""
