"""From a state to the steps ahead: in one go, or recurrently by sampled paths; attention over the past.

Knows heads and cells; knows nothing of encoders or series. Read `decoder` first (what a decoder is), then
`direct_decoder` and `recurrent_decoder`.
"""
