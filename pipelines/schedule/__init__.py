"""Retraining again and again: when something is due, what an attempt is, what a failed one means.

Knows triggers and the watch; knows nothing of what a retraining does. Read `step` first, then `plan` and `attempt`.
"""
