"""The embedded PostgreSQL: `embedded_postgres(data_dir)` starts or joins it."""

from sfm_graph.store.embedded.server import EmbeddedServer, embedded_postgres

__all__ = ["EmbeddedServer", "embedded_postgres"]
