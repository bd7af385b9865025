"""What callers see of the background work of a namespace."""

from collections.abc import Sequence

from sfm_graph.domain.access import Scope
from sfm_graph.domain.job import Job
from sfm_graph.services.access.guard import needs
from sfm_graph.services.view import View
from sfm_graph.store import jobs


class Jobs:
    """Reads the table of jobs."""

    @needs(Scope.READ)
    async def list(self, view: View, namespace: str) -> Sequence[Job]:
        """The jobs of a namespace, by name: a handful. Raises NamespaceNotFound."""
        found = await view.existing_namespace(namespace)
        return await jobs.of_namespace(view.session, found.id)
