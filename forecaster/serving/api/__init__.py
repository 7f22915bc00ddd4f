"""The gRPC services: messages in, calls of the engine, messages out; how errors become statuses.

Knows messages and the batcher; knows nothing of states, tensors or storage. Read `service` first, then
`observe_messages` and `answers`; `streams` is the bidirectional call, `status` the one map of errors.
"""
