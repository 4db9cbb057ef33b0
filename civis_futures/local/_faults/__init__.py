"""Faults: their description, which requests and runs meet them, and what then happens."""
