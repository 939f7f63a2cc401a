"""What gunicorn runs: a loop that collects requests until they are whole, and writes answers."""
