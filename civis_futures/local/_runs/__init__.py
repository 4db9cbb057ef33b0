"""Runs, from queued to their end: what they need, what befalls them, how they went."""
