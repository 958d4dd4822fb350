"""The four services: api, scheduler, reconciler, executor. Each is one folder, started with `python -m services.<name>`."""
