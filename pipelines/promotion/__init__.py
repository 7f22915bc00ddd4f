"""Whether the challenger becomes champion: the decision, written before the aliases move.

Knows the backtest's result and the rule; scores nothing itself. Read `step` first, then `decision`.
"""
