"""All services of one process: what every face is given."""

from dataclasses import dataclass

from sfm_graph.services.access.audit import AuditLog
from sfm_graph.services.access.authentication import Authentication
from sfm_graph.services.access.keys import Keys
from sfm_graph.services.cache_use import CacheUse
from sfm_graph.services.changes.changes import Changes
from sfm_graph.services.changes.relay import Relay
from sfm_graph.services.changes.retention import Retention
from sfm_graph.services.health import Health
from sfm_graph.services.limits import Limits
from sfm_graph.services.links import Links
from sfm_graph.services.maintenance import Maintenance
from sfm_graph.services.memory_reads import MemoryReads
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.namespaces import Namespaces
from sfm_graph.services.recall.recalls import Recalls
from sfm_graph.services.reembed import Reembed
from sfm_graph.services.transfer import Transfer
from sfm_graph.services.traversal import Traversal
from sfm_graph.services.vector_indexing import VectorIndexing
from sfm_graph.services.view import Views
from sfm_graph.services.walks import Walks
from sfm_graph.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """Every use case, opened."""

    settings: Settings
    views: Views
    memory_reads: MemoryReads
    memory_writes: MemoryWrites
    links: Links
    recalls: Recalls
    walks: Walks
    traversal: Traversal
    namespaces: Namespaces
    transfer: Transfer
    reembed: Reembed
    changes: Changes
    relay: Relay | None
    retention: Retention
    vector_indexing: VectorIndexing | None
    maintenance: Maintenance
    health: Health
    limits: Limits
    keys: Keys
    audit: AuditLog
    authentication: Authentication
    cache: CacheUse | None = None
