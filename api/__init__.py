"""The HTTP API: an event's way is routes → intake → event_queue → producer → Kafka."""
