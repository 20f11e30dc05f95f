"""Two Ferry hosts on one machine, for the end-to-end tests and the demo."""
