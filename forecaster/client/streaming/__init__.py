"""Bidirectional streams: what was sent and has no answer yet is sent again after a failure.

Knows messages and retries; knows nothing of frames' columns. Read `outbox` first; the two streams are the same,
synchronous and for asyncio.
"""
