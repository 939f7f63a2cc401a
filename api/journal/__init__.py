"""Events that are accepted and not yet in Kafka, kept on disk; `python -m api.journal` brings back damaged ones."""
