"""Buses that consumers read."""
