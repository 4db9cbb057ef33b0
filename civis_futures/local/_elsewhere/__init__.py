"""Runs on other machines: an agent for each, and the scheduler that starts it."""
