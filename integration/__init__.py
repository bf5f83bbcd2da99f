"""The service and its doors: the only place that knows everything."""
