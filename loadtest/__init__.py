"""Load and sample data: shoppers made up, a public clickstream, and the load test; all through the HTTP API."""
