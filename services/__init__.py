"""The four services: api, scheduler, reconciler, executor. Each is a folder; `python -m services.<name>` starts it."""

from cloacina import grpc_environment

grpc_environment.prepare()
