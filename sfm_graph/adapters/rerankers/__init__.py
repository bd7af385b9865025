"""Rerankers: cross-encoders in the process or behind HTTP."""
