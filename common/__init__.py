"""What the API and the consumer share: settings, the event, the Kafka client, metrics, logs, errors."""
