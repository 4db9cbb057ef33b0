"""Calls, arrays, modules and source lines as bytes: what is sent, and which File it is in."""
