"""The console: a page that shows where every event is. It only looks, but for replaying dead letters."""
