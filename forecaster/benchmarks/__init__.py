"""Public benchmarks, one module each: how its files are read, what may be learnt from, and what is scored."""

NAMES = ("m4-hourly", "etth1", "exchange-rate", "weather")  # here, so that the command need not import them
