"""What is asked of an engine and what it answers, and how rows are judged: plain values, no states.

Knows rows and times; knows nothing of models, messages or storage. Read `observing` and `forecasting` first, then
`admission`: why a row is applied, a duplicate, or refused.
"""
