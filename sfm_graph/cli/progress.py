"""A progress bar on stderr, where somebody watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """What moves the bar on, in bytes."""

    advance: Callable[[int], None]


@contextmanager
def progress_bar(title: str, total_bytes: int | None, wanted: bool | None) -> Iterator[Bar]:
    """A bar while the context lasts: when `wanted`, or when that is None and stderr is a terminal.

    total_bytes: None when nobody knows how much is coming.
    """
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield Bar(lambda nbytes: None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(title, total=total_bytes)
        yield Bar(lambda nbytes: shown.advance(task, nbytes))


@contextmanager
def count_bar(title: str, wanted: bool | None) -> Iterator[Callable[[int, int], None]]:
    """As above, of things that are counted: it is told how many are done, and of how many."""
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
