"""One training as MLflow shows it: the job, its tracking, the version that it registers.

Knows MLflow; knows nothing of gradients. Read `job` first, then `tracking`, `run` and `registration`.
"""
