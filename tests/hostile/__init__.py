"""Hostile and senseless input, against running services."""
