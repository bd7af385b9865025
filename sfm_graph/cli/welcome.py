"""What a server says of itself once it answers: where, and who may ask."""

import logging
from typing import TYPE_CHECKING

from sfm_graph.cli.output import say

if TYPE_CHECKING:
    from sfm_graph.settings import Settings

log = logging.getLogger(__name__)

CALLED_LOCALLY = (
    "other machines get 403 access_refused until SFM_ALLOWED_HOSTS has the names by which they call this one"
)
_WELCOME = """sfm_graph serves {url}  (stop with Ctrl-C)
  GraphiQL  {url}/graphql
  REST      {url}/docs
  Overview  {url}/
  Access    {access}"""
_OPEN = "open to all programs of this machine, until there is a token: SOMA_API_TOKEN, or sfm keys create"
_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 - to be shown otherwise


def means(settings: "Settings", *, keys: bool) -> list[str]:
    """The ways to authenticate, none while there are none. keys: whether the database holds an API key."""
    found = {
        "a token": settings.has_token,
        f"JWTs of {settings.jwt_issuer}": settings.has_jwt,
        "API keys": keys,
    }
    return [name for name, given in found.items() if given]


def welcome(settings: "Settings", url: str, *, keys: bool) -> None:
    """Say where it serves and whom: to people by several lines, to who reads JSON by one of the log."""
    from sfm_graph.settings import LogFormat
    from sfm_graph.telemetry.logs import FIELDS

    ways = means(settings, keys=keys)
    if settings.log_format is LogFormat.JSON:
        log.info("sfm_graph serves %s", url, extra={FIELDS: {"url": url, "open": not ways}})
        if settings.is_called_locally:
            log.warning(CALLED_LOCALLY)
        return
    say(_WELCOME.format(url=url, access=f"by {', '.join(ways)}" if ways else _OPEN))
    if settings.is_called_locally:
        say(f"  Warning   {CALLED_LOCALLY}")


def url_of(host: str, port: int) -> str:
    """Where a browser of this machine finds a listener; loopback, and all addresses, go by the name that everybody
    knows."""
    bare = host.strip("[]")
    shown = "localhost" if bare in ("127.0.0.1", "localhost", *_UNSPECIFIED) else bare
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
