"""What a million events cost, as a table: `cost.py STARTS.json STORM.json`.

Durations and counts are the measured ones: a warm event's from the start bench, with 50 ms on each call, and a storm's
from the storm bench. Prices are AWS's list prices for us-east-1 in US dollars, x86_64, without the free tier.
"""

import json
import statistics
import sys
from pathlib import Path

EVENTS = 1_000_000
PER_REQUEST = 0.20 / 1e6
PER_GB_SECOND = 0.0000166667
MEMORY_GB = 0.125
PER_SQS_REQUEST = 0.40 / 1e6
PER_GB_OF_LOG = 0.50
# The function's one line for an instance, and Lambda's own three for an invocation.
LINE_BYTES = 700
INVOCATION_BYTES = 750
# Lambda polls a quiet queue with 5 pollers, each of which waits 20 s for messages.
POLLS_A_MONTH = 5 * 3 * 60 * 24 * 30
# EventBridge sends each event by itself; the poller takes and deletes up to 10 at once.
MESSAGES_A_POLL = 10


def row(name: str, invocations: float, seconds: float, queue_requests: float) -> str:
    """A line of the table for a million events."""
    requests = invocations * PER_REQUEST
    time = seconds * MEMORY_GB * PER_GB_SECOND
    queue = queue_requests * PER_SQS_REQUEST
    log = (EVENTS * LINE_BYTES + invocations * INVOCATION_BYTES) / 1e9 * PER_GB_OF_LOG
    total = requests + time + queue + log
    cells = [f"{value:.2f}" for value in (requests, time, queue, log, total)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> int:
    """Prints the table."""
    starts, storm = (json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:])
    ours = next(function for function in starts["functions"] if function["name"] == "this function")
    warm = next(run for run in ours["warm"] if run["latency_ms"] > 0)
    event_s = statistics.median(warm["times_ms"]) / 1000
    run = max(
        (run for run in storm["runs"] if run["scenario"] == "plain"), key=lambda run: run["instances"]
    )
    scale = EVENTS / run["instances"]
    print("| a million events | requests | time | queue | log | in all, $ |")
    print("|---|---|---|---|---|---|")
    print(row("each by itself, through the queue", EVENTS, EVENTS * event_s, 3 * EVENTS))
    print(
        row(
            f"in storms of {run['instances']:,}",
            run["invocations"] * scale,
            run["billed_s"] * scale,
            EVENTS * (1 + 2 / MESSAGES_A_POLL) + run["queue_calls"] * scale,
        )
    )
    print(row("one asynchronous invocation an event", EVENTS, EVENTS * event_s, 0))
    print()
    polling = POLLS_A_MONTH * PER_SQS_REQUEST
    print(f"Polling the queue costs ${polling:.2f} a month besides, however many events there are.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
