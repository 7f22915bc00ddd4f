"""A search over configurations: a study that several processes share, its space, its runs in MLflow.

Knows Optuna and trainings; knows nothing of promotion. Read `step` first, then `study` and `space`.
"""
