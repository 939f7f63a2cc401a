"""The console: a page that shows where every event is. It only reads, except for replaying dead letters."""
