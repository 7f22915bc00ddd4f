"""The forecaster: pure functions over an explicit state (`initial_state`, `step`, `scan`, `decode`)."""
