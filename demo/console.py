"""What the demo says to the person who waits for it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# Often enough that nobody thinks it hangs, rarely enough that a log stays readable.
REMINDER_SECONDS = 15


class Failure(Exception):
    """The demo cannot go on, or its result is wrong; the message is for a person."""


def say(text: str) -> None:
    """Prints a line at once, also when the output goes to a file."""
    print(text, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announces a step, reminds of it while it lasts, and tells how long it took."""
    say(f"==> {title}")
    started = time.monotonic()
    done = threading.Event()

    def remind() -> None:
        while not done.wait(REMINDER_SECONDS):
            say(f"    still at it ({time.monotonic() - started:.0f} s)")

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        done.set()
        reminder.join()
    say(f"    done in {time.monotonic() - started:.1f} s")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays rows out in columns, each as wide as its longest cell."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)
        ).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def fail(problem: Failure) -> int:
    """Tells why the demo stops; answers the exit code."""
    print(f"\ndemo: {problem}", file=sys.stderr, flush=True)
    return 1
