"""Headers of a request as they came, before anything else has looked at it."""

from starlette.types import Scope

from sfm_graph.errors import InvalidInput


def only(scope: Scope, name: str) -> str:
    """The value of a header by its lower-case name, empty when absent. Raises InvalidInput when it is given twice."""
    wanted = name.encode()
    values = [value for key, value in scope["headers"] if key == wanted]
    if len(values) > 1:
        raise InvalidInput(f"the header {name} is given more than once")
    return values[0].decode("latin-1") if values else ""
