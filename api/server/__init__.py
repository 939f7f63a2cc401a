"""gunicorn's worker: an event loop that collects complete requests and writes answers."""
