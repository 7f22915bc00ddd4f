"""The demonstration: real data, real processes, a real kill, and figures that anyone can check.

Nothing here is used by the product; it uses the product as its users do, over the command line and gRPC.
"""
