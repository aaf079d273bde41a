"""What the function says it decided, read from its log."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from demo.console import Failure
from demo.stack import Stack

# The work takes a second or so; the rest is for a loaded machine.
WAIT_SECONDS = 60


@dataclass(frozen=True)
class Decision:
    """One log line about one instance."""

    instance: str
    decision: str
    rule: str | None
    reason: str


@dataclass(frozen=True)
class Sweep:
    """The log line about a whole sweep."""

    message: str
    wrong: int
    blocked: int
    bare_sources: Mapping[str, int]
    """What launches instances without a profile, and how many."""


def wait_for(stack: Stack, instances: Collection[str]) -> dict[str, Decision]:
    """Waits until the log tells of every instance and the queue is empty."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = {line.instance: line for line in map(parse, stack.log()) if line}
        missing = [instance for instance in instances if instance not in found]
        if not missing and stack.waiting() == 0:
            return found
        if time.monotonic() > deadline:
            log = "\n".join(f"    {line}" for line in stack.log()[-40:])
            raise Failure(
                f"after {WAIT_SECONDS} s the log is silent about {len(missing)} instances, and the "
                f"queue holds {stack.waiting()} messages. The log's last lines:\n{log}"
            )
        time.sleep(0.5)


def wait_for_sweep(stack: Stack) -> None:
    """Waits until the log tells of a sweep that reached its end."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not sweeps(stack):
        if time.monotonic() > deadline:
            log = "\n".join(f"    {line}" for line in stack.log()[-40:])
            raise Failure(f"after {WAIT_SECONDS} s no sweep has ended. The log's last lines:\n{log}")
        time.sleep(0.5)


def sweeps(stack: Stack) -> list[Sweep]:
    """What the log tells of the sweeps that reached their end."""
    return [sweep for sweep in map(_sweep, stack.log()) if sweep]


def _sweep(line: str) -> Sweep | None:
    try:
        fields = json.loads(line)
        sources = json.loads(fields["sweep.bare_sources"])
        by_source = {source["source"]: source["count"] for source in sources}
        return Sweep(
            fields["message"], fields["sweep.wrong"], fields["sweep.blocked"], by_source
        )
    except (ValueError, KeyError, TypeError):
        return None


def parse(line: str) -> Decision | None:
    """The decision that a log line tells, if it tells one."""
    try:
        fields = json.loads(line)
        return Decision(
            fields["instance.id"], fields["decision"], fields.get("rule"), fields["reason"]
        )
    except (ValueError, KeyError, TypeError):
        return None
