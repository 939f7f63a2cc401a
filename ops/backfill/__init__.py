"""Brings events of earlier days in, from a file."""
