"""Redis, as every adapter of it reaches it."""
