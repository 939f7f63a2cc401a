"""`python -m consumer.dlq`: shows the dead letters, and sends them back."""
