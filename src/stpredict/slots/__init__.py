"""Which slot of an object holds what: the only place that knows their names."""
