"""Architectures side by side: the same data, the same budget, one table."""
