"""Cloacina: durable workflow orchestration that can be observed."""

__version__ = "0.1.0"
