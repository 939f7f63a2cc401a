"""Runs and monitors Pulse from outside its processes: the local stack, tools, dashboards."""
