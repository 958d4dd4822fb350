"""The local daemon: watched folders of packages, run on this machine, without HTTP."""

from cloacina import grpc_environment

grpc_environment.prepare()
