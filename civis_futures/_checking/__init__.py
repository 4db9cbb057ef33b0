"""Seeing whether a platform behaves as the design assumes: what `check-platform` does."""
