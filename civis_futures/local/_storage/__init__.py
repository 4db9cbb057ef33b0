"""Bytes of files, by links that are signed; no key goes here."""
