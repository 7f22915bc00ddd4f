"""Journal, history and snapshots of one model in a folder, owned by one process.

Knows SQLite and Parquet; knows nothing of PostgreSQL. Read `storage` first (which file is what), then `journal`,
`history` (compaction into Parquet files) and `erasure`.
"""
