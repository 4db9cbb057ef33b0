"""Calls, arrays, modules and source lines as bytes, and back again."""
