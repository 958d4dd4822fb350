"""The four services: api, scheduler, reconciler, executor. Each is a folder; `python -m services.<name>` starts it."""
