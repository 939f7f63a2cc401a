"""The browser snippet: pulse.js as people read it, and as the API serves it."""
