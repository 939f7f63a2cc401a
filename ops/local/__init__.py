"""The local stack behind `make run`: broker, database, API and consumer on a machine without Docker."""
