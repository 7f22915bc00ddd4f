"""Bytes become messages: counted against limits before they are parsed, parsed in parts, within a budget.

Knows protobuf's wire format and how much one request may have; knows nothing of what messages mean. Read `decoding`
first; `wire` counts, `message_limits` says how many.
"""
