"""Keeps accepted events on disk until they are in Kafka; `python -m api.journal` restores damaged journals."""
