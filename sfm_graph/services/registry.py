"""All services of one process: what every face is given."""

from dataclasses import dataclass

from sfm_graph.services.access.audit import AuditLog
from sfm_graph.services.access.authentication import Authentication
from sfm_graph.services.access.keys import Keys
from sfm_graph.services.accesses import Accesses
from sfm_graph.services.agent_reads import AgentReads
from sfm_graph.services.cache_use import CacheUse
from sfm_graph.services.changes.changes import Changes
from sfm_graph.services.changes.relay import Relay
from sfm_graph.services.changes.retention import Retention
from sfm_graph.services.consolidation.consolidation import Consolidation
from sfm_graph.services.copying.copies import Copies
from sfm_graph.services.copying.following import Following
from sfm_graph.services.duplicates import DuplicateSearch
from sfm_graph.services.fading.fading import Fading
from sfm_graph.services.fading.holds import Holds
from sfm_graph.services.health import Health
from sfm_graph.services.history import History
from sfm_graph.services.jobs import Jobs
from sfm_graph.services.limits import Limits
from sfm_graph.services.links import Links
from sfm_graph.services.maintenance import Maintenance
from sfm_graph.services.memory_reads import MemoryReads
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.services.merging import Merging
from sfm_graph.services.namespaces import Namespaces
from sfm_graph.services.prediction.extraction import Extraction
from sfm_graph.services.prediction.foresights import Foresights
from sfm_graph.services.prediction.outcomes import Outcomes
from sfm_graph.services.prediction.reflections import Reflections
from sfm_graph.services.recall.recalls import Recalls
from sfm_graph.services.reembed import Reembed
from sfm_graph.services.restoring import Restoring
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
    history: History
    restoring: Restoring
    consolidation: Consolidation
    duplicates: DuplicateSearch
    merging: Merging
    recalls: Recalls
    accesses: Accesses
    walks: Walks
    traversal: Traversal
    namespaces: Namespaces
    transfer: Transfer
    agent_reads: AgentReads
    copies: Copies
    following: Following
    reembed: Reembed
    foresights: Foresights
    outcomes: Outcomes
    reflections: Reflections
    extraction: Extraction
    jobs: Jobs
    changes: Changes
    relay: Relay | None
    retention: Retention
    vector_indexing: VectorIndexing | None
    maintenance: Maintenance
    fading: Fading
    holds: Holds
    health: Health
    limits: Limits
    keys: Keys
    audit: AuditLog
    authentication: Authentication
    cache: CacheUse | None = None
