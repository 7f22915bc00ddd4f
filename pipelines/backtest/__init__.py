"""Champion and challenger on the same past: scores, their difference, runs and figures in MLflow.

Knows models and data sets; decides nothing. Read `step` first, then `comparison` and `result`.
"""
