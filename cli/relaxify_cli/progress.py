"""What moves while one waits, where errors go to a terminal: of what takes long, and of nothing else."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

# in seconds
DELAY, PERIOD = 1.0, 0.1


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """A line that moves while something takes its time."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    status = console.status(f"{what} ...")
    timer = threading.Timer(DELAY, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """What is to be told (bytes done, bytes in all), as often as one likes; None where nobody would see it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    shown = Progress(TextColumn(what), *columns, console=console, transient=True)
    task = shown.add_task("", total=None)
    due = time.monotonic() + DELAY

    def tell(done: int, total: int) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due or (shown.live.is_started and done == total):
            due = now + PERIOD
            shown.start()
            shown.update(task, completed=done, total=total)

    try:
        yield tell
    finally:
        shown.stop()
