"""Public benchmarks, one module each: how its files are read, what may be learnt from, and what is scored."""
