"""What the bus is told and what CloudWatch is given: by the built function, held against the schema and the metrics' form."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest

from account import Account
from demo import stack
from runtime import Function
from test_function_on_moto import only_row, sample

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "notification.schema.json").read_text())
Start = Callable[..., Function]


class Bus:
    """A bus in the emulated account, and a queue to which it sends all that it is told."""

    def __init__(self, endpoint: str) -> None:
        events, self._sqs = (
            boto3.client(service, endpoint_url=endpoint, region_name=stack.REGION)
            for service in ("events", "sqs")
        )
        self.arn = events.create_event_bus(Name="listeners")["EventBusArn"]
        self._queue = self._sqs.create_queue(QueueName="listener")["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(
            QueueUrl=self._queue, AttributeNames=["QueueArn"]
        )
        pattern = json.dumps({"source": ["auto-instance-profile"]})
        events.put_rule(Name="all", EventBusName="listeners", EventPattern=pattern)
        target = {"Id": "queue", "Arn": attributes["Attributes"]["QueueArn"]}
        events.put_targets(Rule="all", EventBusName="listeners", Targets=[target])

    def told(self) -> list[Any]:
        answer = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10)
        return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


@pytest.fixture
def bus(moto: str, account: Account) -> Bus:
    return Bus(moto)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_change_a_block_and_a_sweep_are_told_as_the_schema_says(
    account: Account, bus: Bus, start: Start
) -> None:
    bare = account.launch(tag="web")
    account.launch(tag="admin")
    right = account.launch(tag="web", profile="web")
    function = start(EVENT_BUS=bus.arn)
    for instance in (bare, right):
        function.invoke(sample("instance-running.json", instance))
    function.invoke({"sweep": {}, "dry-run": True})
    told = bus.told()
    for event in told:
        assert event["source"] == "auto-instance-profile"
        jsonschema.validate(event["detail"], SCHEMA)
    kinds = [event["detail-type"] for event in told]
    # What is right is nobody's news.
    assert sorted(kinds) == ["Instance Profile Changed", "Sweep Completed"]
    change, sweep = (
        event["detail"] for event in sorted(told, key=lambda event: event["detail-type"])
    )
    assert (change["instance-id"], change["before"]) == (bare, None)
    assert change["after"].endswith(":instance-profile/web")
    assert (sweep["instances"], sweep["right"], sweep["blocked"]) == (3, 2, {"not-allowed": 1})


def test_a_block_is_told_with_its_reason(account: Account, bus: Bus, start: Start) -> None:
    instance = account.launch(tag="admin", profile="web-old")
    event = sample("tags-changed.json", instance)
    event["detail"]["tags"] = {"InstanceProfile": "admin"}
    row = only_row(start(EVENT_BUS=bus.arn).invoke(event))
    assert row["reason-code"] == "not-allowed"
    (event,) = bus.told()
    jsonschema.validate(event["detail"], SCHEMA)
    assert event["detail-type"] == "Instance Profile Blocked"
    assert event["detail"]["reason-code"] == "not-allowed"
    assert event["detail"]["before"] == event["detail"]["after"]


def test_without_a_bus_nobody_is_told(account: Account, bus: Bus, start: Start) -> None:
    start().invoke(sample("instance-running.json", account.launch(tag="web")))
    assert bus.told() == []


@pytest.mark.parametrize("spoil", ["instance-id", "reason-code", "before", "version"])
def test_the_schema_misses_nothing_that_it_promises(spoil: str) -> None:
    detail = {key: None for key in SCHEMA["$defs"]["instance"]["required"]} | {
        **{"version": "1", "instance-id": "i-0123456789abcdef0", "region": "us-east-1"},
        **{"outcome": "kept", "reason-code": "right", "reason": "x", "tags": {}},
    }
    jsonschema.validate(detail, SCHEMA)
    del detail[spoil]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(detail, SCHEMA)


def test_metrics_are_lines_in_cloudwatchs_form(account: Account, start: Start) -> None:
    function = start(QUEUE_URL=account.make_queue())
    event = sample("instance-running.json", account.launch(tag="web"))
    # How long ago an event was is a metric, and an example's is of no interest.
    event["time"] = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    function.invoke(event)
    # What a person asks for is no heartbeat of the schedule's, and counts for no alarm.
    function.invoke({"sweep": {}, "scheduled": True})
    lines = function.log_file.read_text().splitlines()
    documents = [json.loads(line) for line in lines if line.startswith('{"_aws"')]
    assert len(documents) >= 2
    for document in documents:
        (directive,) = document["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == "AutoInstanceProfile"
        assert document["_aws"]["Timestamp"] > 1_700_000_000_000
        for metric in directive["Metrics"]:
            value = document[metric["Name"]]
            assert isinstance(value, (int, list)), metric
        for dimensions in directive["Dimensions"]:
            assert all(isinstance(document[name], str) for name in dimensions)
    names = {name for document in documents for name in document}
    assert {"Associated", "TimeToAssociated", "SweepCompleted", "SweptRight"} <= names
