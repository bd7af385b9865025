"""Commands that make, list and revoke API keys."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from sfm_graph.cli.connection import Target, ask_graphql
from sfm_graph.cli.options import After, Config, First, Url
from sfm_graph.cli.output import say, show

_FIELDS = """fragment K on ApiKey { id name scopes namespaces created_by: createdBy created_at: createdAt
  expires_at: expiresAt revoked_at: revokedAt last_used_at: lastUsedAt }"""
_CREATE = f"""mutation ($input: CreateApiKeyInput!) {{
  createApiKey(input: $input) {{ key: apiKey {{ ...K }} token }} }} {_FIELDS}"""
_LIST = f"""query ($first: Int!, $after: String) {{ apiKeys(first: $first, after: $after) {{
  edges {{ node {{ ...K }} }} pageInfo {{ hasNextPage endCursor }} }} }} {_FIELDS}"""
_REVOKE = f"""mutation ($input: RevokeApiKeyInput!) {{ revokeApiKey(input: $input) {{
  apiKey {{ ...K }} tokenNeeded }} }} {_FIELDS}"""

keys = typer.Typer(
    no_args_is_help=True, help="API keys: tokens of the service's own, each for some scopes and namespaces."
)


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Its name, unique among keys that are not revoked.")],
    scopes: Annotated[
        list[str],
        typer.Option("--scope", "-s", help="read, write, subscribe, admin or metrics; may be repeated."),
    ],
    namespaces: Annotated[
        list[str],
        typer.Option("--namespace", "-n", help="A name, a prefix such as team/*, or * for all; may be repeated."),
    ],
    expires: Annotated[
        str | None,
        typer.Option(help="90m, 12h, 30d or 2w from now, an ISO 8601 time, or never, the default."),
    ] = None,
    url: Url = None,
    config: Config = None,
) -> None:
    """Make a key, and show its token, once."""
    from sfm_graph.domain.access import EVERYWHERE, Scope
    from sfm_graph.domain.api_key import expiry
    from sfm_graph.domain.validate import choice

    for one in namespaces:
        if one.endswith("/"):
            say(f"{one!r} is the one namespace of that name; for all that begin so: '{one}{EVERYWHERE}'")
    until = expiry(expires, datetime.now(UTC))
    given = {
        "name": name,
        "scopes": [choice(scope, Scope, "scope").name for scope in scopes],
        "namespaces": namespaces,
        "expiresAt": until and until.isoformat(),
    }
    made = ask_graphql(Target(url, config, existing=True), _CREATE, input=given)["createApiKey"]
    show({**_shown(made["key"]), "token": made["token"]})
    say("the token is stored nowhere: keep it now")


@keys.command("list")
def list_keys(first: First = 20, after: After = None, url: Url = None, config: Config = None) -> None:
    """The keys, revoked ones too, by id; never their tokens."""
    page = ask_graphql(Target(url, config, existing=True), _LIST, first=first, after=after)["apiKeys"]
    show({"keys": [_shown(edge["node"]) for edge in page["edges"]], "next": next_of(page)})


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID|NAME", help="Which key.")], url: Url = None, config: Config = None
) -> None:
    """Make a key worth nothing: at the server that is asked at once, at others within 5 seconds."""
    done = ask_graphql(Target(url, config, existing=True), _REVOKE, input={"key": key})["revokeApiKey"]
    show(_shown(done["apiKey"]))
    if not done["tokenNeeded"]:
        say("no key is left: nobody on this machine needs a token now")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(keys, name="keys")


def next_of(page: dict[str, dict[str, object]]) -> object:
    """What `--after` takes for the page behind one; None when it is the last."""
    where = page["pageInfo"]
    return where["endCursor"] if where["hasNextPage"] else None


def _shown(key: dict[str, object]) -> dict[str, object]:
    scopes = key["scopes"]
    return {**key, "scopes": [str(scope).lower() for scope in scopes] if isinstance(scopes, list) else scopes}
