"""`python -m consumer.dlq`: looks into the dead letter topic, and sends letters back."""
