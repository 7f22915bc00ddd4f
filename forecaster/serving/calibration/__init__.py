"""Live scores and corrected quantiles: what is kept of each series' forecasts until their actual values come.

Knows horizons and quantiles; knows nothing of stores or of storage. Read `calibration` first; the two kernels do its
work in machine code.
"""
