from cloacina import grpc_environment

grpc_environment.prepare()
