"""The API's documentation: /openapi.json, and the page that shows it."""
