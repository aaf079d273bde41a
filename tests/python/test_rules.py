"""The template's rules against the sample events, by a matcher that we did not write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from moto.events.models import EventPattern

import cloudformation

EVENTS = Path(__file__).resolve().parents[2] / "events"
GIVEN = {"AllowedProfiles": ["web"], "PassableRoles": ["arn:aws:iam::123456789012:role/web"]}


def matches(rule: str, event: Any, **parameters: Any) -> bool:
    pattern = cloudformation.deploy(GIVEN, **parameters).properties(rule)["EventPattern"]
    return bool(EventPattern.load(json.dumps(pattern)).matches_event(event))


def sample(file: str) -> Any:
    return json.loads((EVENTS / file).read_text())


@pytest.mark.parametrize(
    ("file", "rule"),
    [
        ("instance-running.json", "StateChangeRule"),
        ("instance-stopped.json", "StateChangeRule"),
        ("instance-pending.json", None),
        ("tags-changed.json", "TagChangeRule"),
        ("tags-of-no-interest.json", None),
        ("foreign.json", None),
        # It claims to be ours, so it has to reach the function and then the dead-letter queue.
        ("malformed.json", "StateChangeRule"),
    ],
)
def test_a_sample_event_reaches_the_queue_by_its_own_rule(file: str, rule: str | None) -> None:
    matched = [name for name in ("StateChangeRule", "TagChangeRule") if matches(name, sample(file))]
    assert matched == ([rule] if rule else [])


def test_the_tag_rule_follows_the_tag_key() -> None:
    event = sample("tags-changed.json")
    assert not matches("TagChangeRule", event, ProfileTagKey="Role")
    event["detail"]["changed-tag-keys"] = ["Name", "Role"]
    assert matches("TagChangeRule", event, ProfileTagKey="Role")


def test_with_a_policy_file_no_tag_change_of_an_instance_is_lost() -> None:
    # Which keys matter is the policy's to say, and the function's to know.
    event = sample("tags-of-no-interest.json")
    assert matches("TagChangeRule", event, PolicyFile="/opt/policy.yaml")
    del event["detail"]["changed-tag-keys"]
    assert matches("TagChangeRule", event, PolicyFile="/opt/policy.yaml")
    event["detail"]["resource-type"] = "volume"
    assert not matches("TagChangeRule", event, PolicyFile="/opt/policy.yaml")


@pytest.mark.parametrize(("key", "value"), [("service", "rds"), ("resource-type", "volume")])
def test_a_tag_change_of_anything_but_an_instance_is_not_wanted(key: str, value: str) -> None:
    event = sample("tags-changed.json")
    event["detail"][key] = value
    assert not matches("TagChangeRule", event)


def test_a_look_alike_from_another_source_is_not_wanted() -> None:
    for file in ("instance-running.json", "tags-changed.json"):
        event = sample(file) | {"source": "somebody.else"}
        assert not any(matches(rule, event) for rule in ("StateChangeRule", "TagChangeRule"))
