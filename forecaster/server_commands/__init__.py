"""The `forecaster` command's side that asks a server.

Knows how these commands are called from a shell and how their results look there; what they say to a server is the
client's. Read `commands` first, which lists them.
"""
