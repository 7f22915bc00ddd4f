"""Training by several processes: who is which, what they sum up, where they meet.

Knows torch.distributed; knows nothing of models. Read `ranks` first.
"""
