"""Imports earlier events from a file."""
