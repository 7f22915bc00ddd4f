"""Pipelines: one module and one plain, typed, re-runnable function for each step from data to champion."""
