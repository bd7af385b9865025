"""Consolidation: what follows from episodes that belong together."""
