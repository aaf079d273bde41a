"""The template's rules against the sample events, by a matcher that we did not write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from moto.events.models import EventPattern

import cloudformation

EVENTS = Path(__file__).resolve().parents[2] / "events"
RULES = ["StateChangeRule", "TagChangeRule", "DriftRule"]
GIVEN = {"AllowedProfiles": ["web"], "PassableRoles": ["arn:aws:iam::123456789012:role/web"]}


def matches(rule: str, event: Any, **parameters: Any) -> bool:
    pattern = cloudformation.deploy(GIVEN, **parameters).properties(rule)["EventPattern"]
    return bool(EventPattern.load(json.dumps(pattern)).matches_event(event))


def sample(file: str) -> Any:
    return json.loads((EVENTS / file).read_text())


SAMPLES = {
    "instance-running.json": "StateChangeRule",
    "instance-stopped.json": "StateChangeRule",
    "instance-pending.json": None,
    "tags-changed.json": "TagChangeRule",
    "tags-of-no-interest.json": None,
    "foreign.json": None,
    # It claims to be ours, so it has to reach the function and then the dead-letter queue.
    "malformed.json": "StateChangeRule",
    "drift-associate.json": "DriftRule",
    "drift-replace.json": "DriftRule",
    "drift-disassociate.json": "DriftRule",
    "drift-run-instances.json": "DriftRule",
    "drift-failed.json": None,
    # Its own test says by whose role it is.
    "drift-own.json": "DriftRule",
}


@pytest.mark.parametrize(("file", "rule"), SAMPLES.items())
def test_a_sample_event_reaches_the_queue_by_its_own_rule(file: str, rule: str | None) -> None:
    matched = [name for name in RULES if matches(name, sample(file), Drift="on")]
    assert matched == ([rule] if rule else [])


def test_each_sample_of_an_event_is_one_that_the_rules_were_tried_with() -> None:
    events = {path.name for path in EVENTS.glob("*.json") if "detail-type" in sample(path.name)}
    assert events == set(SAMPLES)


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
    event = sample("drift-associate.json")
    assert not matches("DriftRule", event | {"source": "somebody.else"}, Drift="on")
    event["detail"]["eventSource"] = "iam.amazonaws.com"
    assert not matches("DriftRule", event, Drift="on")


# ---- Drift ----


def is_drift(event: Any, own_role: str = "arn:aws:iam::123456789012:role/some-other-role") -> bool:
    """Whether the drift rule lets an event through, of a function with this role."""
    rule = cloudformation.deploy(GIVEN, Drift="on").properties("DriftRule")
    pattern = json.dumps(rule["EventPattern"])
    assert pattern.count('"FunctionRole.Arn"') == 1
    pattern = pattern.replace("FunctionRole.Arn", own_role)
    return bool(EventPattern.load(pattern).matches_event(event))


def test_the_functions_own_calls_are_no_drift_and_those_of_another_stack_are() -> None:
    event = sample("drift-own.json")
    issuer = event["detail"]["userIdentity"]["sessionContext"]["sessionIssuer"]["arn"]
    assert not is_drift(event, own_role=issuer)
    assert is_drift(event, own_role=f"{issuer}2")


def test_the_calls_of_users_and_of_roles_are_drift() -> None:
    identities = [
        sample(file)["detail"]["userIdentity"]
        for file in ("drift-associate.json", "drift-replace.json", "drift-run-instances.json")
    ]
    # A user with a second factor has a session, which nobody issued.
    session = {"attributes": {"mfaAuthenticated": "true"}, "sessionIssuer": {}}
    identities.append(identities[0] | {"sessionContext": session})
    identities.append({"type": "Root", "arn": "arn:aws:iam::123456789012:root"})
    assert [identity["type"] for identity in identities] == [
        *["IAMUser", "AssumedRole", "AssumedRole", "IAMUser", "Root"]
    ]
    for identity in identities:
        event = sample("drift-associate.json")
        event["detail"]["userIdentity"] = identity
        assert is_drift(event)


@pytest.mark.parametrize(
    "code",
    ["Client.UnauthorizedOperation", "Client.IncorrectState", "Client.DryRunOperation"],
)
@pytest.mark.parametrize(
    "file",
    [file for file, rule in SAMPLES.items() if rule == "DriftRule"],
)
def test_a_call_that_changed_nothing_is_no_drift(file: str, code: str) -> None:
    event = sample(file)
    assert is_drift(event)
    event["detail"] |= {"errorCode": code, "errorMessage": "…", "responseElements": None}
    assert not is_drift(event)


@pytest.mark.parametrize("call", ["TerminateInstances", "CreateTags", "StopInstances"])
def test_other_calls_are_no_drift(call: str) -> None:
    event = sample("drift-associate.json")
    event["detail"]["eventName"] = call
    assert not is_drift(event)
