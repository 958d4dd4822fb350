"""The gateway: HTTP to the world, gRPC to the services. Owns identity (tenants, API keys) and nothing else."""
