"""Faults done to the real server under load, every answer checked: ``make chaos``."""
