"""The four services: api, scheduler, reconciler, executor. Each is a folder; `python -m services.<name>` starts it."""

from cloacina.forks import leave_forks_alone

leave_forks_alone()
