"""The engine: the pure core made durable. It commits in groups, claims ready tasks for executors and keeps leases.

It knows the store, and no gRPC: the scheduler service and the embedded runner are two shells around it.
"""
