"""What a recurrence is fed: values scaled by the series' own running statistics, lags, what is missing.

Knows series' values and times; knows nothing of cells. Read `inputs` first, then `normalizer` and
`robust_normalizer`.
"""
