"""The states of one model version, advanced and forecast from; two of them while a version is being replaced.

Knows models and stores; knows nothing of journals, gRPC or asyncio. Read `lane` first, then `forecasting`; `lanes`
says which of two a series belongs to.
"""
