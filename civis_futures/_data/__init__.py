"""Calls, arrays and source lines as bytes: what is pickled, and which File it is in."""
