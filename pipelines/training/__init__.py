"""A training as a pipeline's step, alone or on a Ray cluster; the data set that it reads.

Knows `forecaster.training`; knows nothing of promotion. Read `step` first.
"""
