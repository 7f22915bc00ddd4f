"""States as a fold of the journal: at a start, under another version, for series whose snapshots are gone.

Knows lanes and storage; knows nothing of the engine or of requests. Read `recovery` first, then `fold` and `starts`;
`census` says which series there are and how far back the fold has to begin.
"""
