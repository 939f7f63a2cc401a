"""The HTTP API: an event goes server → routes → intake → journal and event_queue → producer → Kafka."""
