"""What makes the system visible: the request's scope, logs, metrics, traces. Knows no service."""
