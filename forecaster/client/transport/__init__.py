"""How a client reaches its server: channels, calls that are tried again, what is known of the server's model.

Knows statuses and clocks; knows nothing of frames. Read `async_calling` first, of which `calling` is generated, then
`retry`.
"""
