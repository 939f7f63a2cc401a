"""What runs and watches Pulse outside its own processes: the local stack, tools, dashboards."""
