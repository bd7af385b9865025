"""The `sfm-consume` command. What is heavy is imported when used: `--help` answers in a fraction of a second."""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from sfm_consumers.assembly import Plan

_GROUP = re.compile(r"[A-Za-z0-9._-]{1,200}")

app = typer.Typer(
    help="Do something durable with every change of an sfm-graph. Messages on stderr.",
    epilog="Exit codes: 0 drained and ended, 1 refused or failed, 2 wrong usage.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class SourceKind(StrEnum):
    """Which bus is read."""

    KAFKA = "kafka"
    REDIS = "redis"


def _list(wanted: bool) -> None:
    if wanted:
        from sfm_consumers.assembly import consumer_names

        typer.echo("\n".join(consumer_names()))
        raise typer.Exit


@app.command()
def consume(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The consumer, one of --list.")],
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="The consumer's own options.")
    ] = None,
    source: Annotated[
        SourceKind | None, typer.Option(help="What is read; by default what the relay writes to (SFM_EVENT_BUS).")
    ] = None,
    group: Annotated[str | None, typer.Option(help="The consumer group and ledger; sfm-NAME by default.")] = None,
    ledger: Annotated[
        str | None, typer.Option(help="A file, or postgresql://... without a password; SFM_CONSUMER_LEDGER.")
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning/--from-now", help="Where a group begins that has never read.")
    ] = True,
    host: Annotated[str | None, typer.Option(help="The address of metrics and health; SFM_CONSUMER_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Their port, 0 for any free one; SFM_CONSUMER_PORT.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of the service's settings; SFM_CONFIG.")] = None,
    _: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="Say which consumers there are.")
    ] = False,
) -> None:
    """Run a consumer until it is stopped (Ctrl-C, SIGTERM): it finishes what it has in hand, then leaves."""
    from sfm_graph.errors import SettingsError, SfmError

    group = group or f"sfm-{name}"
    if not _GROUP.fullmatch(group):
        raise typer.BadParameter("has up to 200 letters, digits, dots, hyphens and underscores", param_hint="--group")
    chosen = _chosen(options or [])
    try:
        _run(_plan(name, group, source, chosen, ledger, from_beginning, host, port, config))
    except SettingsError as error:
        _fail(str(error))
    except SfmError as error:
        _fail(f"{error.code}: {error.message}")


def main() -> None:
    """The entry point of `sfm-consume`."""
    app()


def _chosen(options: list[str]) -> dict[str, str]:
    chosen = {}
    for option in options:
        name, given, value = option.partition("=")
        if not given or not name:
            raise typer.BadParameter("looks like option=value", param_hint="--set")
        chosen[name] = value
    return chosen


def _plan(
    name: str,
    group: str,
    source: SourceKind | None,
    options: dict[str, str],
    ledger: str | None,
    from_beginning: bool,
    host: str | None,
    port: int | None,
    config: Path | None,
) -> "Plan":
    from sfm_consumers.assembly import Plan
    from sfm_consumers.settings import load_consumer_settings
    from sfm_graph.settings import EventBusKind, load_settings

    settings = load_settings(config)
    own = load_consumer_settings(host=host, port=port, ledger=ledger)
    kind = EventBusKind(source) if source else settings.bus
    return Plan(name, group, kind, options, settings, own, from_beginning)


def _run(plan: "Plan") -> None:
    import asyncio
    import sys

    from sfm_consumers.signals import stopped_by_signals
    from sfm_graph.telemetry.logs import start_logging

    start_logging(plan.settings.log_format, plan.settings.log_level)
    if sys.platform == "win32":
        asyncio.run(stopped_by_signals(plan, _say))
    else:
        import uvloop

        uvloop.run(stopped_by_signals(plan, _say))


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _fail(message: str) -> NoReturn:
    _say(f"sfm-consume: {message}")
    raise typer.Exit(1)
