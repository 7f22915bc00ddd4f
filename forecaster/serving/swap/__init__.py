"""A server's model versions: which is served, how the next one takes over, how it is taken back.

Knows the engine and how states are rebuilt; knows nothing of gRPC. Read `version` first (the life of a version),
then `swap` (bucket by bucket), then `verification`.
"""
