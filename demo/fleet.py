"""The instances of the demo: how each starts out, and how it must end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.stack import ACCOUNT, ROOT, Cloud

POLICY = ROOT / "demo" / "policy.yaml"
ALLOWED_PROFILES = "web,app/*,shop-*,ssm-baseline"

# Name and path of every profile; each holds a role of the same name.
PROFILES = {
    **{"web": "/", "batch": "/app/", "shop-prod": "/", "ssm-baseline": "/"},
    # Nobody may get these.
    **{"web-old": "/", "admin": "/", "node": "/"},
}
PASSABLE_ROLES = ["web", "batch", "shop-prod", "ssm-baseline"]

# What the files in events/ name, and what stands in its place here.
SAMPLE_INSTANCE = "i-0123456789abcdef0"
SAMPLE_ACCOUNT = "123456789012"


@dataclass(frozen=True)
class Result:
    """What comes of an instance: its profile, and what the function says of it."""

    after: str | None
    decision: str
    rule: str | None
    reason: str


@dataclass(frozen=True)
class Case:
    """An instance, the event that tells of it, if any does, and what must come of it."""

    name: str
    before: str | None
    tags: Mapping[str, str]
    event: str | None
    result: Result
    stopped: bool = field(default=False, kw_only=True)
    group: str | None = field(default=None, kw_only=True)
    """The Auto Scaling group that launched it."""


RUNNING, STOPPED, TAGGED = "instance-running.json", "instance-stopped.json", "tags-changed.json"


def _named(profile: str) -> Mapping[str, str]:
    return {"InstanceProfile": profile}


# fmt: off
CASES = [
    Case("bare", None, _named("web"), RUNNING,
         Result("web", "associate", "named-by-tag", "bare")),
    Case("wrong", "web-old", _named("web"), TAGGED,
         Result("web", "replace", "named-by-tag", "other-profile")),
    Case("right", "web", _named("web"), RUNNING,
         Result("web", "keep", "named-by-tag", "right")),
    # A swap is begun only where what is attached could be put back.
    Case("stopped, wrong", "batch", _named("web"), STOPPED,
         Result("web", "swap", "named-by-tag", "other-profile"), stopped=True),
    Case("not allowed", None, _named("admin"), RUNNING,
         Result(None, "leave", "named-by-tag", "not-allowed")),
    Case("under a path", None, _named("batch"), TAGGED,
         Result("batch", "associate", "named-by-tag", "bare")),
    Case("retired", "web-old", {"Lifecycle": "retired"}, STOPPED,
         Result(None, "remove", "retired", "none-required"), stopped=True),
    Case("of an app", None, {"App": "shop", "Environment": "prod"}, RUNNING,
         Result("shop-prod", "associate", "per-app", "bare")),
    Case("stopped, waits", "web-old", {"App": "shop", "Environment": "prod"}, STOPPED,
         Result("web-old", "wait", "per-app", "instance-stopped"), stopped=True),
    Case("nothing said", None, {}, RUNNING,
         Result("ssm-baseline", "associate", "baseline", "bare")),
    Case("has its own", "web-old", {}, RUNNING,
         Result("web-old", "leave", "baseline", "fills-gaps-only")),
    Case("in a cluster", "node", {"eks:cluster-name": "main"}, RUNNING,
         Result("node", "leave", None, "ignored-by-policy")),
]

# Their events got lost, or somebody changed them afterwards.
MISSED = [
    Case("missed, bare", None, _named("web"), None,
         Result("web", "associate", "named-by-tag", "bare"), group="web-asg"),
    Case("missed, wrong", "web-old", _named("web"), None,
         Result("web", "replace", "named-by-tag", "other-profile")),
    Case("missed, blocked", None, _named("admin"), None,
         Result(None, "leave", "named-by-tag", "not-allowed")),
]
# fmt: on


def make_profiles(cloud: Cloud) -> None:
    """Makes every profile with its role, which EC2 may assume."""
    iam = cloud.client("iam")
    principal = {"Service": "ec2.amazonaws.com"}
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    for name, path in PROFILES.items():
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
        iam.create_instance_profile(InstanceProfileName=name, Path=path)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def launch(cloud: Cloud, cases: Sequence[Case]) -> dict[str, Case]:
    """Launches the instance of each case; answers the cases by instance id."""
    ec2 = cloud.client("ec2")
    return {_launch(ec2, case): case for case in cases}


def _launch(ec2: Any, case: Case) -> str:
    tags = {"Name": case.name, **case.tags}
    if case.group:
        tags["aws:autoscaling:groupName"] = case.group
    specification = {
        "ResourceType": "instance",
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    profile = {"IamInstanceProfile": {"Name": case.before}} if case.before else {}
    launched = ec2.run_instances(
        ImageId="ami-12345678", MinCount=1, MaxCount=1, TagSpecifications=[specification], **profile
    )
    instance = str(launched["Instances"][0]["InstanceId"])
    if case.stopped:
        ec2.stop_instances(InstanceIds=[instance])
    return instance


def profiles_of(cloud: Cloud) -> dict[str, str]:
    """The profile's name for every instance that has one, as EC2's association list tells it."""
    associations = cloud.client("ec2").describe_iam_instance_profile_associations()
    return {
        row["InstanceId"]: row["IamInstanceProfile"]["Arn"].rsplit("/", 1)[1]
        for row in associations["IamInstanceProfileAssociations"]
        if row["State"] in ("associating", "associated")
    }


def sample_event(
    file: str, instance: str, tags: Mapping[str, str], root: Path = ROOT
) -> Mapping[str, Any]:
    """A file of events/ with this instance, its tags and the emulator's account in it."""
    text = (root / "events" / file).read_text()
    event = json.loads(text.replace(SAMPLE_INSTANCE, instance).replace(SAMPLE_ACCOUNT, ACCOUNT))
    assert isinstance(event, dict)
    if "tags" in event["detail"]:
        # An event that tells of other tags than EC2's is one whose tags EC2 does not show yet.
        event["detail"]["tags"] = dict(tags)
    return event
