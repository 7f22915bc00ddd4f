"""Whether the served model is still good: live scores and inputs beside what the training had.

Knows the server's metrics and data sets; retrains nothing. Read `watch` first, then `drift` and `stability`.
"""
