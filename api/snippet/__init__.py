"""The browser snippet: the source pulse.js, and the minified file that the API serves."""
