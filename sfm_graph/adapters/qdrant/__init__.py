"""Qdrant as the vector index. Needs the extra `qdrant`; only what is inside of this package imports its client."""
