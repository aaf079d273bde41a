"""Faults end to end: the built binary, with a proxy between it and moto that has calls fail in transit."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from account import Account
from fault_proxy import (
    RESET_AFTER,
    RESET_BEFORE,
    SERVER_ERROR,
    THROTTLED,
    Fault,
    FaultProxy,
    between,
)
from runtime import Function, running
from test_function_on_moto import SWAPS, only_row, sample

INSTANCES = "DescribeInstances"
ASSOCIATIONS = "DescribeIamInstanceProfileAssociations"
GET_PROFILE = "GetInstanceProfile"
ASSOCIATE = "AssociateIamInstanceProfile"
REPLACE = "ReplaceIamInstanceProfileAssociation"
DISASSOCIATE = "DisassociateIamInstanceProfile"
WRITES = (ASSOCIATE, REPLACE, DISASSOCIATE)

# What a write that is lost, refused or slow can meet; the last comes after its caller has given up.
FAULTS = {
    "reset before": RESET_BEFORE,
    "reset after": RESET_AFTER,
    "500": SERVER_ERROR,
    "throttled": THROTTLED,
    "slow": Fault(delay=1),
    "too late": Fault(delay=6),
}
# What an instance has, whether it runs, and the calls that put it right.
CASES = {
    "bare": (None, True, [ASSOCIATE]),
    "wrong": ("web-old", True, [REPLACE]),
    "stopped wrong": ("web-old", False, [DISASSOCIATE, ASSOCIATE]),
}
EACH_WRITE = [(case, action) for case, (_, _, actions) in CASES.items() for action in actions]


@pytest.fixture
def proxy(moto: str) -> Iterator[FaultProxy]:
    """A proxy to moto, through which all is well at first."""
    with between(moto) as proxy:
        yield proxy


@pytest.fixture
def function(
    account: Account, start: Callable[..., Function], proxy: FaultProxy
) -> Function:
    """A function that reaches moto through the proxy, that swaps, and whose start is over."""
    function = start(**SWAPS, QUEUE_URL=account.make_queue(), AWS_ENDPOINT_URL=proxy.url)
    assert function.invoke(sample("foreign.json"))["ignored"]
    return function


def launch(account: Account, case: str) -> tuple[str, Any]:
    """An instance that is not right, and the event about it."""
    before, runs, _ = CASES[case]
    instance = account.launch(tag="web", profile=before)
    if runs:
        return instance, sample("instance-running.json", instance)
    account.stop(instance)
    return instance, sample("instance-stopped.json", instance)


def as_message(event: Any) -> Any:
    """The event as it comes from the queue."""
    batch = sample("sqs-batch.json")
    record = batch["Records"][0] | {"body": json.dumps(event), "messageId": "m1"}
    return {"Records": [record]}


COMES_AGAIN = {"batchItemFailures": [{"itemIdentifier": "m1"}]}
DONE: dict[str, list[Any]] = {"batchItemFailures": []}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("case", "action"), EACH_WRITE)
def test_a_write_that_fails_once_is_made_good_within_the_invocation(
    account: Account, proxy: FaultProxy, function: Function, case: str, action: str, fault: str
) -> None:
    instance, event = launch(account, case)
    proxy.once(action, FAULTS[fault])
    row = only_row(function.invoke(event))
    assert row["outcome"] in ("associated", "replaced", "swapped", "converged")
    assert account.profile_of(instance) == "web"
    if fault == "too late":
        # The first try gets through after all, and must change nothing.
        time.sleep(2)
        assert account.profile_of(instance) == "web"
    else:
        done = {call: proxy.carried_out[call] for call in WRITES if proxy.carried_out[call]}
        assert done == dict.fromkeys(CASES[case][2], 1), "each write once"


@pytest.mark.parametrize("fault", ["reset before", "500", "throttled"])
@pytest.mark.parametrize("action", [INSTANCES, ASSOCIATIONS, GET_PROFILE])
def test_a_read_that_fails_once_is_read_again(
    account: Account, proxy: FaultProxy, function: Function, action: str, fault: str
) -> None:
    account.make_profile("app-late", "/app/")
    instance = account.launch(tag="app-late")
    proxy.once(action, FAULTS[fault])
    row = only_row(function.invoke(sample("instance-running.json", instance)))
    assert row["outcome"] == "associated"
    assert account.profile_of(instance) == "app/app-late"


@pytest.mark.parametrize("fault", ["reset before", "500", "throttled"])
@pytest.mark.parametrize(("case", "action"), EACH_WRITE)
def test_a_write_that_fails_for_good_leaves_the_message_which_is_done_once_all_is_well(
    account: Account, proxy: FaultProxy, function: Function, case: str, action: str, fault: str
) -> None:
    instance, event = launch(account, case)
    proxy.always(action, FAULTS[fault])
    assert function.invoke(as_message(event)) == COMES_AGAIN
    # A swap asks before it detaches, so that it detaches nothing that could not be followed by an attach.
    assert account.profile_of(instance) == CASES[case][0]
    assert proxy.carried_out[action] == 0
    proxy.mend()
    assert function.invoke(as_message(event)) == DONE
    assert account.profile_of(instance) == "web"


@pytest.mark.parametrize("action", [INSTANCES, ASSOCIATIONS])
def test_without_its_reads_nothing_is_written(
    account: Account, proxy: FaultProxy, function: Function, action: str
) -> None:
    instance, event = launch(account, "wrong")
    proxy.always(action, SERVER_ERROR)
    assert function.invoke(event)["errorType"] == "Transient"
    assert [proxy.seen[call] for call in WRITES] == [0, 0, 0]
    assert account.profile_of(instance) == "web-old"


def noting_its_process(binary: Path, note: Path, folder: Path) -> Path:
    """A program that writes its process id down and becomes the binary."""
    script = folder / "bootstrap"
    script.write_text(f"#!/bin/sh\necho $$ > '{note}'\nexec '{binary}'\n")
    script.chmod(0o755)
    return script


def test_a_function_that_is_killed_in_the_middle_of_a_swap_is_made_good_by_the_next_event(
    account: Account, proxy: FaultProxy, binary: Path, tmp_path: Path
) -> None:
    note = tmp_path / "process-id"
    program = noting_its_process(binary, note, tmp_path)
    instance, event = launch(account, "stopped wrong")

    def kill() -> None:
        os.kill(int(note.read_text()), signal.SIGKILL)

    queue = account.make_queue()
    settings = {**SWAPS, "QUEUE_URL": queue}
    proxy.once(DISASSOCIATE, Fault(before_answer=kill))
    with running(program, proxy.url, settings, tmp_path) as function:
        answer = requests.post(function.url, json=as_message(event), timeout=60)
        # Lambda reports the end of a process as a failed invocation, so that the whole batch comes again.
        assert "batchItemFailures" not in answer.text
    assert proxy.carried_out[DISASSOCIATE] == 1
    # The one that asked whether the required profile can be attached at all.
    assert (proxy.seen[ASSOCIATE], proxy.carried_out[ASSOCIATE]) == (1, 0)
    assert account.profile_of(instance) is None
    # Whoever looks next knows from it what was taken away.
    assert account.held_back(queue) == 1

    with running(program, proxy.url, settings, tmp_path) as function:
        assert function.invoke(as_message(event)) == DONE
    assert account.profile_of(instance) == "web"
    assert proxy.carried_out[ASSOCIATE] == 1
