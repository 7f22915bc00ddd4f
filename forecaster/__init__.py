"""Streaming time-series forecasting: recurrent models whose per-series state lives on the server."""

__version__ = "0.1.0"
