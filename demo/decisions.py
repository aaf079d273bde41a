"""What the function says it decided, read from its log."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass

from demo.console import Failure
from demo.stack import Stack

# The batch waits one second for company and the work takes less; the rest is for a loaded machine.
WAIT_SECONDS = 60


@dataclass(frozen=True)
class Decision:
    """One log line about one instance."""

    instance: str
    decision: str
    rule: str | None
    reason: str


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


def parse(line: str) -> Decision | None:
    """The decision that a log line tells, if it tells one."""
    try:
        fields = json.loads(line)
        return Decision(
            fields["instance.id"], fields["decision"], fields.get("rule"), fields["reason"]
        )
    except (ValueError, KeyError, TypeError):
        return None
