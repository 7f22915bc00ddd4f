"""Sources of any kind become a partitioned data set with a manifest: in parts, incremental, safe to kill.

Knows files, SQL and a server's state; knows nothing of models. Read `step` first, then `source` (the contract) and
`merging` (an upsert by series and time).
"""
