"""Bytes in the platform's Files: how they get there, and how they are found again."""
