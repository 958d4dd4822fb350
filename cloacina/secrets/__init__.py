"""Secrets: sealed before they are stored, opened for the tasks that declare them."""
