"""What the robust statistics believe: the numbers that their two implementations, in torch and compiled, share.

See `robust_normalizer` for the law.
"""

FAR = 3.0  # times the largest believed distance: what noise seldom reaches
EARLY = 8.0  # the first values may be further away, as far as little is known of what is far
DOUBT = 2.0794415416798357  # log 8
MOST_DOUBT = 30.0
ROUNDING = 2.0**-52
