"""The protocols of other trackers: converts the messages of their SDKs to events."""
