"""Load and sample data, all through the HTTP API: generated shoppers, a public clickstream, and the load test."""
