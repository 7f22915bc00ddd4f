"""Journal, history and snapshots in a PostgreSQL database, under a lease with a fencing token.

Knows psycopg, which only this wing loads; knows nothing of files. Read `schema` first, then `fenced_session` and
`journal`.
"""
