"""The `sfm` command: everything the service does, from a shell.

What is heavy is imported by the command that needs it: `sfm --help` answers in a fraction of a second.
"""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from sfm_graph.cli import (
    audit,
    backup,
    changes,
    connection,
    consolidation,
    copies,
    fading,
    followers,
    foresight,
    history,
    keys,
    memories,
    reembed,
    server,
    transfer,
    walks,
)
from sfm_graph.cli.connection import Credential, credential
from sfm_graph.cli.output import fail
from sfm_graph.errors import SettingsError, SfmError


class _Group(TyperGroup):
    """Shows every refusal in one form."""

    def invoke(self, ctx: "typer.Context") -> object:  # type: ignore[override]
        """Run a command; exit 1 where it was refused."""
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            fail("settings_error", str(error))
        except SfmError as error:
            fail(error.code, error.message, **error.details)


app = typer.Typer(
    cls=_Group,
    help="A graph memory for AI agents. JSON on stdout; messages and progress on stderr.",
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (
    server,
    backup,
    memories,
    history,
    fading,
    consolidation,
    walks,
    changes,
    copies,
    transfer,
    foresight,
    reembed,
    followers,
    keys,
    audit,
):
    _module.add_to(app)


@app.callback()
def credentials(
    token: Annotated[
        str | None,
        typer.Option(
            envvar="SFM_TOKEN",
            show_envvar=True,
            help="The bearer token for --url. Other users of this machine can see a command's options: rather set "
            "the variable, or use --token-file.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="SFM_TOKEN_FILE", show_envvar=True, help="A file that holds it.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="The agent that writes or recalls by this command, 1 to 200 characters.")
    ] = None,
) -> None:
    """Take the credential that commands with --url show the server, and whom a command works for."""
    credential.set(Credential(token, token_file))
    if agent is not None:
        from sfm_graph.domain import inputs

        connection.agent.set(inputs.agent(agent))


def main() -> None:
    """The entry point of `sfm` and `soma`."""
    app()
