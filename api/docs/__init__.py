"""The API described: /openapi.json, and the page that shows it."""
