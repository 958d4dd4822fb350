"""The gateway over real HTTP and real gRPC; behind it, stand-ins for the scheduler and the reconciler."""
