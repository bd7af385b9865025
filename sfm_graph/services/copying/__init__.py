"""Copying memories from one namespace to another, with provenance; kept in step where that is asked for."""
