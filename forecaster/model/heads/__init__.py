"""What a decoder's numbers mean: quantiles, or the parameters of a distribution; losses, quantile functions.

Knows formulas only. Read `heads` first.
"""
