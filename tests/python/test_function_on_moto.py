"""End to end: the built binary under Lambda's runtime emulator, with moto for EC2 and IAM."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from account import Account
from demo import stack
from runtime import Function

EVENTS = stack.ROOT / "events"
SAMPLE_INSTANCES = ("i-0123456789abcdef0", "i-0fedcba9876543210")
Start = Callable[..., Function]


def sample(file: str, *instances: str) -> Any:
    """A sample event with these instances in the place of the ones that it names."""
    text = (EVENTS / file).read_text()
    for name, instance in zip(SAMPLE_INSTANCES, instances, strict=False):
        text = text.replace(name, instance)
    return json.loads(text)


def only_row(report: Any) -> Any:
    (row,) = report["instances"]
    return row


def test_a_bare_instance_gets_its_profile_when_it_starts(account: Account, start: Start) -> None:
    instance = account.launch(tag="web")
    row = only_row(start().invoke(sample("instance-running.json", instance)))
    assert (row["decision"], row["outcome"]) == ("associate", "associated")
    assert account.profile_of(instance) == "web"


def test_a_wrong_profile_is_replaced_when_the_tag_changes(account: Account, start: Start) -> None:
    instance = account.launch(tag="web", profile="web-old")
    row = only_row(start().invoke(sample("tags-changed.json", instance)))
    assert (row["decision"], row["outcome"]) == ("replace", "replaced")
    assert account.profile_of(instance) == "web"


def test_a_stopped_instance_keeps_its_wrong_profile_until_it_runs(
    account: Account, start: Start
) -> None:
    instance = account.launch(tag="web", profile="web-old")
    account.stop(instance)
    function = start(QUEUE_URL=account.make_queue())
    row = only_row(function.invoke(sample("instance-stopped.json", instance)))
    assert (row["decision"], row["outcome"]) == ("wait", "waiting")
    assert row["reason-code"] == "instance-stopped"
    assert account.profile_of(instance) == "web-old"


# With these a stopped instance is swapped: who asks for it needs a queue, and a way back.
SWAPS = {"WHEN_STOPPED": "swap", "ALLOWED_PROFILES": "web,web-old,app/*"}


def test_a_wrong_profile_of_a_stopped_instance_is_swapped_where_it_is_asked_for(
    account: Account, start: Start
) -> None:
    instance = account.launch(tag="web", profile="web-old")
    account.stop(instance)
    queue = account.make_queue()
    function = start(**SWAPS, QUEUE_URL=queue)
    row = only_row(function.invoke(sample("instance-stopped.json", instance)))
    assert (row["decision"], row["outcome"]) == ("swap", "swapped")
    assert account.profile_of(instance) == "web"
    # What was detached was written down first; and the write is followed by a look.
    assert account.held_back(queue) == 2


@pytest.mark.parametrize("lacking", ["QUEUE_URL", "ALLOWED_PROFILES"])
def test_a_swap_that_could_not_be_made_safe_is_not_begun(
    account: Account, start: Start, lacking: str
) -> None:
    instance = account.launch(tag="web", profile="web-old")
    account.stop(instance)
    settings = {**SWAPS, "QUEUE_URL": account.make_queue()}
    del settings[lacking]
    row = only_row(start(**settings).invoke(sample("instance-stopped.json", instance)))
    assert (row["decision"], row["reason-code"]) == ("wait", "instance-stopped")
    assert account.profile_of(instance) == "web-old"


def test_a_profile_under_a_path_is_found_by_its_bare_name(account: Account, start: Start) -> None:
    instance = account.launch(tag="batch")
    start().invoke(sample("instance-running.json", instance))
    assert account.profile_of(instance) == "app/batch"


@pytest.mark.parametrize(
    ("tag", "before", "decision"),
    [("web", "web", "keep"), (None, "web-old", "leave"), ("admin", None, "leave")],
    ids=["right", "untagged", "not allowed"],
)
def test_what_is_right_unmanaged_or_not_allowed_stays_as_it_is(
    account: Account, start: Start, tag: str | None, before: str | None, decision: str
) -> None:
    instance = account.launch(tag=tag, profile=before)
    row = only_row(start().invoke(sample("instance-running.json", instance)))
    assert row["decision"] == decision
    assert account.profile_of(instance) == before


POLICY = """\
version: 1
ignore:
  - tags: { Cluster: "*" }
rules:
  - name: retired
    match: { tags: { Lifecycle: retired } }
    profile: none
  - name: per-app
    match: { tags: { App: "?*" } }
    profile: "${tag:App}"
  - name: baseline
    match: {}
    profile: web
    when-different: keep
"""


@pytest.mark.parametrize(
    ("tags", "before", "after", "rule", "reason"),
    [
        ({"App": "batch"}, "web-old", "app/batch", "per-app", "other-profile"),
        ({"App": "admin"}, None, None, "per-app", "not-allowed"),
        ({"App": "app/../admin"}, None, None, "per-app", "invalid-profile"),
        ({"Lifecycle": "retired"}, "web-old", None, "retired", "none-required"),
        ({"Name": "x"}, None, "web", "baseline", "bare"),
        ({"Name": "x"}, "web-old", "web-old", "baseline", "fills-gaps-only"),
        ({"Cluster": "main"}, None, None, None, "ignored-by-policy"),
        # The built-in policy's tag means nothing to this one.
        ({"InstanceProfile": "batch"}, None, "web", "baseline", "bare"),
    ],
)
def test_with_a_policy_file_its_rules_decide(
    account: Account,
    start: Start,
    tmp_path: Path,
    tags: dict[str, str],
    before: str | None,
    after: str | None,
    rule: str | None,
    reason: str,
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    instance = account.launch(tags=tags, profile=before)
    function = start(POLICY_FILE=str(file))
    row = only_row(function.invoke(sample("instance-running.json", instance)))
    assert (row["rule"], row["reason-code"]) == (rule, reason)
    assert account.profile_of(instance) == after


def test_a_policy_that_cannot_be_used_stops_the_start_with_line_and_column(
    binary: Path, tmp_path: Path
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.replace("when-different", "when-diferent"))
    ended = start_alone(binary, {"POLICY_FILE": str(file)})
    assert ended.returncode != 0
    assert f"{file}:14:" in ended.stdout + ended.stderr


def test_a_persons_dry_run_tells_what_would_be_done_and_does_nothing(
    account: Account, start: Start
) -> None:
    instance = account.launch(tag="web", profile="web-old")
    report = start(MODE="enforce").invoke(sample("invocation.json", instance))
    row = only_row(report)
    assert report["mode"] == "dry-run"
    assert (row["instance-id"], row["state"]) == (instance, "running")
    assert (row["rule"], row["tags"]) == ("named-by-tag", {"InstanceProfile": "web"})
    assert row["attached"].endswith(":instance-profile/web-old")
    assert row["required"].endswith(":instance-profile/web")
    assert (row["decision"], row["outcome"]) == ("replace", "planned")
    assert account.profile_of(instance) == "web-old"


def test_a_function_in_dry_run_writes_nothing_for_any_event(account: Account, start: Start) -> None:
    instance = account.launch(tag="web")
    function = start(MODE="dry-run")
    for file in ("instance-running.json", "tags-changed.json", "sqs-batch.json"):
        function.invoke(sample(file, instance))
    assert account.profile_of(instance) is None


def test_of_a_batch_only_the_malformed_message_fails(account: Account, start: Start) -> None:
    first, second = account.launch(tag="web"), account.launch(tag="web", profile="web-old")
    batch = sample("sqs-batch.json", first, second)
    (malformed,) = (
        record["messageId"] for record in batch["Records"] if not record["body"].startswith("{")
    )
    function = start()
    answer = function.invoke(batch)
    assert answer == {"batchItemFailures": [{"itemIdentifier": malformed}]}
    assert account.profile_of(first) == account.profile_of(second) == "web"
    told = [line["instance.id"] for line in function.log() if "instance.id" in line]
    assert sorted(told) == sorted([first, second]), "one line an instance, however many messages"


@pytest.mark.parametrize("file", ["foreign.json", "tags-of-no-interest.json"])
def test_an_event_of_no_interest_is_ignored_and_says_why(
    account: Account, start: Start, file: str
) -> None:
    instance = account.launch(tag="web")
    function = start(AWS_ENDPOINT_URL="http://127.0.0.1:1")  # where no call could succeed
    answer = function.invoke(sample(file, instance))
    assert list(answer) == ["ignored"] and answer["ignored"]
    assert account.profile_of(instance) is None
    lines = function.log()
    # The start could not open its connections, and says so.
    assert [line["outcome"] for line in lines if "outcome" in line] == ["ignored"]


def test_a_malformed_event_is_an_error_in_stable_words(start: Start) -> None:
    answer = start().invoke(sample("malformed.json"))
    assert answer["errorType"] == "MalformedEvent"
    assert "instance-id" in answer["errorMessage"]


GARBAGE = ["null", "[]", "{}", '"text"', "17", "[" * 5_000 + "]" * 5_000]


def test_garbage_is_an_error_and_the_process_lives_on(account: Account, start: Start) -> None:
    instance = account.launch(tag="web")
    function = start()
    for payload in GARBAGE:
        answer = function.invoke_raw(payload)
        assert answer["errorType"] == "MalformedEvent", payload[:20]
    # Lambda itself refuses what is no JSON; an emulator that does not gets the runtime's own error.
    assert function.invoke_raw("not json")["errorType"]
    row = only_row(function.invoke(sample("instance-running.json", instance)))
    assert row["outcome"] == "associated"


def start_alone(binary: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Starts the function where there is nothing to work for, and waits for its end."""
    env = stack.environment() | {"ALLOWED_PROFILES": "web"} | settings
    return subprocess.run([binary], env=env, capture_output=True, text=True, timeout=30)


BAD_SETTINGS = {
    **{"ALLOWED_PROFILES": ["", "app/", "/web", "web,,db"], "MODE": ["perhaps", ""]},
    **{"PROFILE_TAG_KEY": ["", "aws:x", "AWS:x"], "POLICY_FILE": ["", "/nowhere/policy.yaml"]},
    **{"WHEN_STOPPED": ["", "never"]},
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_SETTINGS.items() for value in values]
)
def test_a_bad_setting_stops_the_start_and_names_the_variable(
    binary: Path, name: str, value: str
) -> None:
    ended = start_alone(binary, {name: value})
    assert ended.returncode != 0
    assert name in ended.stdout + ended.stderr
