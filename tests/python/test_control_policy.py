"""docs/scp.json, which protects the tags that choose profiles, as a simulator of IAM judges it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

import iam
from cloudformation import ACCOUNT, REGION
from demo.stack import ROOT
from iam import Request

CONTROL_POLICY = json.loads((ROOT / "docs" / "scp.json").read_text())
POLICY = yaml.safe_load((ROOT / "policy" / "policy.yaml").read_text())

INSTANCE = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-0123456789abcdef0"
VOLUME = f"arn:aws:ec2:{REGION}:{ACCOUNT}:volume/vol-0123456789abcdef0"
GROUP = f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:*:autoScalingGroupName/web"

# What the person who asks may do beside it: everything, so that only the control policy is judged.
DEVELOPER = f"arn:aws:iam::{ACCOUNT}:role/developer"
PROVISIONING = f"arn:aws:iam::{ACCOUNT}:role/provisioning/terraform"


def tagging(action: str, *keys: str, resource: str = INSTANCE, by: str = DEVELOPER) -> Request:
    context: dict[str, str | list[str]] = {"aws:PrincipalArn": by}
    if keys:
        context["aws:TagKeys"] = list(keys)
    return Request(action, resource, context, by)


def allowed(requests: list[Request]) -> list[Request]:
    return iam.allowed(iam.EVERYTHING, requests, [iam.EVERYTHING, CONTROL_POLICY])


def keys_read(policy: Any) -> set[str]:
    """The tag keys that a policy reads."""

    def of_match(match: Any) -> Iterator[str]:
        yield from match.get("tags", {})

    ignored = {key for entry in policy.get("ignore", []) for key in of_match(entry)}
    matched = {key for rule in policy["rules"] for key in of_match(rule["match"])}
    templates = " ".join(rule["profile"] for rule in policy["rules"])
    return ignored | matched | set(re.findall(r"\$\{tag:([^}]+)\}", templates))


# Karpenter and the owners of nodes set them. They choose no profile, and denied they would keep clusters from growing.
SET_BY_THE_MAKERS_OF_NODES = {
    *["karpenter.sh/nodepool", "eks:eks-cluster-name", "eks:nodegroup-name"],
    "kubernetes.io/cluster/*",
}
PROTECTED = sorted(keys_read(POLICY) - SET_BY_THE_MAKERS_OF_NODES)

DENIED = [
    *[tagging("ec2:CreateTags", key) for key in PROTECTED],
    *[tagging("ec2:DeleteTags", key) for key in PROTECTED],
    # Hidden among others, and in another case, which looks the same to whoever reads it quickly.
    tagging("ec2:CreateTags", "Name", "InstanceProfile", "Owner"),
    tagging("ec2:CreateTags", "instanceprofile"),
    # No key at all deletes every tag.
    tagging("ec2:DeleteTags"),
    # At the launch.
    tagging("ec2:RunInstances", "Name", "InstanceProfile"),
    tagging("ec2:CreateFleet", "InstanceProfile"),
    # By a group that hands its tags down.
    tagging("autoscaling:CreateAutoScalingGroup", "InstanceProfile", resource=GROUP),
    tagging("autoscaling:CreateOrUpdateTags", "InstanceProfile", resource=GROUP),
    tagging("autoscaling:DeleteTags", "InstanceProfile", resource=GROUP),
    # By those whose names only look like the named ones.
    *[
        tagging("ec2:CreateTags", "InstanceProfile", by=f"arn:aws:iam::{ACCOUNT}:{name}")
        for name in [
            *["role/provisioning", "role/provisioning2/x", "role/x/provisioning/y"],
            *["user/provisioning/x", "role/Provisioning/terraform"],
        ]
    ],
]

LEFT_ALONE = [
    tagging("ec2:CreateTags", "Name", "Owner"),
    tagging("ec2:CreateTags", "InstanceProfile2"),
    tagging("ec2:DeleteTags", "Name"),
    tagging("ec2:RunInstances", "Name"),
    tagging("ec2:RunInstances"),
    # Tags of what is no instance choose nothing.
    tagging("ec2:CreateTags", "Environment", resource=VOLUME),
    tagging("ec2:DeleteTags", resource=VOLUME),
    tagging("ec2:RunInstances", "Environment", resource=VOLUME),
    tagging("autoscaling:CreateOrUpdateTags", "Name", resource=GROUP),
    tagging("autoscaling:CreateAutoScalingGroup", resource=GROUP),
    tagging("ec2:TerminateInstances"),
]


def test_it_keeps_nearly_everybody_from_the_tags_that_choose_profiles() -> None:
    assert allowed(DENIED) == []


def test_it_leaves_everything_else_alone() -> None:
    assert allowed(LEFT_ALONE) == LEFT_ALONE


def test_it_lets_the_named_principals_set_them() -> None:
    requests = [
        replace(
            request,
            principal=PROVISIONING,
            context={**request.context, "aws:PrincipalArn": PROVISIONING},
        )
        for request in DENIED
    ]
    assert allowed(requests) == requests


def test_what_only_the_makers_of_nodes_set_is_ignored_and_chooses_nothing() -> None:
    chosen_by = keys_read({"rules": POLICY["rules"]})
    assert keys_read(POLICY) >= SET_BY_THE_MAKERS_OF_NODES
    assert not chosen_by & SET_BY_THE_MAKERS_OF_NODES


def test_it_protects_the_tags_that_the_policy_reads_and_no_others() -> None:
    # Nobody but AWS sets tags whose keys begin with `aws:`.
    read = {key for key in PROTECTED if not key.startswith("aws:")}
    statements = [statement["Condition"] for statement in CONTROL_POLICY["Statement"]]
    lists = [
        condition["ForAnyValue:StringEqualsIgnoreCase"]["aws:TagKeys"]
        for condition in statements
        if "ForAnyValue:StringEqualsIgnoreCase" in condition
    ]
    assert len(lists) == 2
    assert all(set(keys) == read for keys in lists)


def test_it_names_the_same_principals_everywhere_and_is_short_enough() -> None:
    named = {
        json.dumps(statement["Condition"]["ArnNotLike"])
        for statement in CONTROL_POLICY["Statement"]
    }
    assert len(named) == 1
    # AWS counts the characters, white space included when it comes by the API.
    assert len((ROOT / "docs" / "scp.json").read_text()) <= 5_120


@pytest.mark.parametrize("statement", range(3))
def test_each_statement_is_needed(statement: int) -> None:
    rest = [s for number, s in enumerate(CONTROL_POLICY["Statement"]) if number != statement]
    less = CONTROL_POLICY | {"Statement": rest}
    assert iam.allowed(iam.EVERYTHING, DENIED, [iam.EVERYTHING, less]) != []
