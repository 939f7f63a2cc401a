"""Shared by the API and the consumer: settings, the event, the Kafka client, metrics, logs, errors."""
