"""The protocols of other trackers: what their SDKs send becomes events of ours, and takes the way of all others."""
