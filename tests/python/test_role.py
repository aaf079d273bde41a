"""The function's role against requests, as a simulator of IAM judges them: no more than needed."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

import cloudformation
import iam
from cloudformation import ACCOUNT, REGION, Stack
from iam import Request

ALLOW_LIST = Path(__file__).resolve().parents[1] / "data" / "allow-list.json"

OTHER_ACCOUNT = "111122223333"
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:stack-Queue"
DEAD_LETTER_QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:stack-DeadLetterQueue"
SWEEP_FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:stack-SweepFunction"
LOG_GROUP = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/stack"
LOG_STREAM = f"{LOG_GROUP}:log-stream:2030/01/01/[$LATEST]0123456789abcdef"

ASSOCIATE = "ec2:AssociateIamInstanceProfile"
REPLACE = "ec2:ReplaceIamInstanceProfileAssociation"
DISASSOCIATE = "ec2:DisassociateIamInstanceProfile"


BUS = f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/ops"
# What widens the role when it is given.
WIDER = {"EventBusArn": BUS, "Tracing": "Active"}


def role_policy(allowed_profiles: list[str], partition: str = "aws", **more: Any) -> Any:
    """The role's policy as IAM gets it, with ARNs for what only the deployment makes."""
    given = {
        "AllowedProfiles": allowed_profiles,
        "PassableRoles": [f"arn:{partition}:iam::{ACCOUNT}:role/web"],
    }
    policy = json.dumps(cloudformation.deploy(given, partition, **more).role_policy())
    made = {
        "Queue.Arn": QUEUE,
        "DeadLetterQueue.Arn": DEAD_LETTER_QUEUE,
        "LogGroup.Arn": f"{LOG_GROUP}:*",
    }
    for attribute, arn in made.items():
        assert f'"{attribute}"' in policy
        policy = policy.replace(f'"{attribute}"', f'"{arn}"')
    return json.loads(policy)


@pytest.fixture(scope="module")
def policy() -> Any:
    return role_policy(["web", "app/*"])


@pytest.fixture(scope="module")
def wider_policy() -> Any:
    return role_policy(["web", "app/*"], **WIDER)


def instance(region: str = REGION, account: str = ACCOUNT, partition: str = "aws") -> str:
    return f"arn:{partition}:ec2:{region}:{account}:instance/i-0123456789abcdef0"


def profile(path_and_name: str, account: str = ACCOUNT, partition: str = "aws") -> str:
    return f"arn:{partition}:iam::{account}:instance-profile/{path_and_name}"


def role(path_and_name: str, account: str = ACCOUNT) -> str:
    return f"arn:aws:iam::{account}:role/{path_and_name}"


def attach(action: str, arn: str, to: str | None = None) -> Request:
    return Request(action, to or instance(), {"ec2:NewInstanceProfile": arn})


def attach_both_ways(arn: str, to: str | None = None) -> list[Request]:
    return [attach(ASSOCIATE, arn, to), attach(REPLACE, arn, to)]


def read(path_and_name: str, account: str = ACCOUNT) -> Request:
    return Request("iam:GetInstanceProfile", profile(path_and_name, account))


def pass_role(arn: str, to: str | None = "ec2.amazonaws.com") -> Request:
    return Request("iam:PassRole", arn, {"iam:PassedToService": to} if to else {})


# ---- What the code calls ----

NEEDED = [
    Request("ec2:DescribeInstances"),
    Request("ec2:DescribeIamInstanceProfileAssociations"),
    Request("ec2:DescribeTags"),
    *attach_both_ways(profile("web")),
    *attach_both_ways(profile("app/batch")),
    *attach_both_ways(profile("app/team/batch")),
    Request(DISASSOCIATE, instance()),
    read("web"),
    read("app/batch"),
    Request("sqs:ChangeMessageVisibility", QUEUE),
    Request("sqs:SendMessage", DEAD_LETTER_QUEUE),
    # What sweeps find, the look that follows a write, what a swap is about to take away.
    Request("sqs:SendMessage", QUEUE),
    # What EC2 asks for on the function's behalf.
    pass_role(role("web")),
    # What Lambda does with the function's role.
    Request("sqs:ReceiveMessage", QUEUE),
    Request("sqs:DeleteMessage", QUEUE),
    Request("sqs:GetQueueAttributes", QUEUE),
    Request("logs:CreateLogStream", LOG_STREAM),
    Request("logs:PutLogEvents", LOG_STREAM),
]


def test_the_role_allows_every_call_that_the_code_makes(policy: Any) -> None:
    assert iam.allowed(policy, NEEDED) == NEEDED


# What is needed too where notifications and traces are asked for.
NEEDED_WHEN_WIDER = [
    Request("events:PutEvents", BUS),
    # What Lambda does with the function's role.
    Request("xray:PutTraceSegments"),
    Request("xray:PutTelemetryRecords"),
]


def test_notifications_and_traces_are_allowed_when_asked_for(
    policy: Any, wider_policy: Any
) -> None:
    assert iam.allowed(wider_policy, NEEDED + NEEDED_WHEN_WIDER) == NEEDED + NEEDED_WHEN_WIDER
    assert iam.allowed(policy, NEEDED_WHEN_WIDER) == []


def test_it_does_so_in_other_partitions() -> None:
    policy = role_policy(["web", "app/*"], "aws-us-gov")
    to = instance(partition="aws-us-gov")
    needed = attach_both_ways(profile("web", partition="aws-us-gov"), to)
    assert iam.allowed(policy, needed) == needed
    assert iam.allowed(policy, attach_both_ways(profile("web"), to)) == []


# ---- What must never be ----

JUST_OUTSIDE = [
    *["web2", "we", "eb", "Web", "WEB", "web/", "x/web", "web/web", "../web", "web,app/x", " web"],
    *["app", "App/x", "application/x", "xapp/x", "x/app/x", "app%2Fx", "app:x", "admin"],
]
FORBIDDEN = {
    "a profile just outside the patterns": [
        request
        for path_and_name in JUST_OUTSIDE
        for request in [*attach_both_ways(profile(path_and_name)), read(path_and_name)]
    ],
    "a value that is itself a pattern": [
        request
        for path_and_name in ["*", "?eb", "w*", "we?", "*/web", "${aws:username}", "app*"]
        for request in attach_both_ways(profile(path_and_name))
    ],
    "an ARN that is none": [
        request
        for arn in ["web", "*", "arn:*", f"arn:aws:iam::{ACCOUNT}:role/web", profile("")]
        for request in attach_both_ways(arn)
    ],
    "no profile named": [Request(ASSOCIATE, instance()), Request(REPLACE, instance())],
    "a profile of another account": [
        *attach_both_ways(profile("web", OTHER_ACCOUNT)),
        *attach_both_ways(profile("app/x", OTHER_ACCOUNT)),
        *attach_both_ways(profile("web", "aws")),
        *attach_both_ways(profile("web", "")),
        Request(
            "iam:GetInstanceProfile",
            profile("web", OTHER_ACCOUNT),
            {"aws:ResourceAccount": OTHER_ACCOUNT},
        ),
    ],
    "a profile of another partition": [
        *attach_both_ways(profile("web", partition="aws-cn")),
        *attach_both_ways(profile("app/x", partition="aws-us-gov")),
    ],
    "an instance of another Region, account or partition": [
        request
        for to in [
            instance("eu-west-1"),
            instance(account=OTHER_ACCOUNT),
            instance(partition="aws-cn"),
        ]
        for request in [*attach_both_ways(profile("web"), to), Request(DISASSOCIATE, to)]
    ],
    "a role passed to another service or to none named": [
        pass_role(role("web"), service)
        for service in [
            *["lambda.amazonaws.com", "ecs-tasks.amazonaws.com", "ssm.amazonaws.com"],
            *["ec2.amazonaws.com.cn", "*", None],
        ]
    ],
    "another role": [
        pass_role(arn)
        for arn in [
            *[role("admin"), role("web2"), role("we"), role("Web"), role("app/web")],
            role("web", OTHER_ACCOUNT),
        ]
    ],
    "other queues and logs": [
        Request("sqs:ReceiveMessage", f"{QUEUE}2"),
        Request("sqs:SendMessage", f"{QUEUE}2"),
        Request("sqs:SendMessage", f"{DEAD_LETTER_QUEUE}2"),
        *(
            Request(f"sqs:{action}", DEAD_LETTER_QUEUE)
            for action in ["ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility"]
        ),
        Request("sqs:PurgeQueue", QUEUE),
        Request("logs:PutLogEvents", LOG_STREAM.replace("stack", "stack2")),
        Request("logs:DeleteLogGroup", LOG_GROUP),
    ],
    "making and changing profiles and roles": [
        *(
            Request(f"iam:{action}", profile("web"))
            for action in [
                *["CreateInstanceProfile", "DeleteInstanceProfile", "TagInstanceProfile"],
                *["AddRoleToInstanceProfile", "RemoveRoleFromInstanceProfile"],
            ]
        ),
        *(
            Request(f"iam:{action}", role("web"))
            for action in [
                *["CreateRole", "DeleteRole", "GetRole", "UpdateAssumeRolePolicy"],
                *["PutRolePolicy", "AttachRolePolicy", "DeleteRolePermissionsBoundary"],
            ]
        ),
        Request("sts:AssumeRole", role("web")),
        Request("iam:CreateAccessKey", f"arn:aws:iam::{ACCOUNT}:user/person"),
    ],
    "anything else on instances": [
        Request(f"ec2:{action}", instance())
        for action in [
            *["RunInstances", "TerminateInstances", "StopInstances", "StartInstances"],
            *["RebootInstances", "CreateTags", "DeleteTags", "GetPasswordData"],
            "ModifyInstanceMetadataOptions",
        ]
    ],
    "other buses, alarms and dashboards": [
        Request("events:PutEvents", f"{BUS}2"),
        Request("events:PutEvents", BUS.replace("ops", "default")),
        Request("events:PutEvents", BUS.replace(ACCOUNT, OTHER_ACCOUNT)),
        Request("events:PutRule", f"arn:aws:events:{REGION}:{ACCOUNT}:rule/stack-DriftRule"),
        Request("events:DisableRule", f"arn:aws:events:{REGION}:{ACCOUNT}:rule/stack-DriftRule"),
        Request("cloudwatch:PutMetricData"),
        Request(
            "cloudwatch:DisableAlarmActions",
            f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:stack-DeniedAlarm",
        ),
    ],
    "itself and its stack": [
        Request(f"lambda:{action}", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:stack-{name}")
        for action in ["UpdateFunctionCode", "UpdateFunctionConfiguration", "InvokeFunction"]
        for name in cloudformation.FUNCTIONS
    ],
}


@pytest.mark.parametrize("requests", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_the_role_refuses(wider_policy: Any, requests: list[Request]) -> None:
    # Whatever the wider one refuses, the one without its statements refuses too.
    assert requests
    assert iam.allowed(wider_policy, requests) == []


def test_of_all_actions_of_all_services_it_allows_only_the_needed_ones(wider_policy: Any) -> None:
    # With the most favourable values, on whatever resource there is. What the role has less where
    # nothing more is asked for, test_template.py says.
    context = {
        "ec2:NewInstanceProfile": profile("web"),
        "iam:PassedToService": "ec2.amazonaws.com",
        "aws:ResourceAccount": ACCOUNT,
    }
    # AWS lets everybody ask who they are, whatever any policy says.
    for_everybody = {"sts:GetCallerIdentity"}
    allowed = iam.allowed_actions(wider_policy, context)
    assert allowed == {request.action for request in NEEDED + NEEDED_WHEN_WIDER} | for_everybody


# ---- The schedule's role ----


def test_the_schedules_role_begins_sweeps_and_does_nothing_else() -> None:
    given = {"AllowedProfiles": ["web"], "PassableRoles": [role("web")]}
    (policy,) = cloudformation.deploy(given).properties("SweepRole")["Policies"]
    text = json.dumps(policy["PolicyDocument"])
    made = {"SweepFunction.Arn": SWEEP_FUNCTION, "DeadLetterQueue.Arn": DEAD_LETTER_QUEUE}
    for attribute, arn in made.items():
        assert f'"{attribute}"' in text
        text = text.replace(f'"{attribute}"', f'"{arn}"')
    document = json.loads(text)
    invoke, send = "lambda:InvokeFunction", "sqs:SendMessage"
    needed = [Request(invoke, SWEEP_FUNCTION), Request(send, DEAD_LETTER_QUEUE)]
    other = SWEEP_FUNCTION.replace("Sweep", "Event")
    more = [Request(invoke, other), Request(send, QUEUE), Request("sqs:ReceiveMessage", QUEUE)]
    assert iam.allowed(document, needed + more) == needed
    # AWS lets everybody ask who they are.
    allowed = iam.allowed_actions(document, {}) - {"sts:GetCallerIdentity"}
    assert allowed == {invoke, send}


# ---- The role and the code, pattern by pattern ----


def table() -> dict[str, list[Any]]:
    """Rows by their list of patterns. The Rust tests hold the function's own list against them."""
    rows = json.loads(ALLOW_LIST.read_text())
    assert len(rows) > 400, "the table is not read as it should be"
    groups = itertools.groupby(rows, key=lambda row: str(row["patterns"]))
    return {patterns: list(group) for patterns, group in groups}


def test_the_role_allows_exactly_the_profiles_that_the_code_allows() -> None:
    for patterns, rows in table().items():
        requests = [
            attach(action, profile(row["path_and_name"]))
            for row in rows
            for action in (ASSOCIATE, REPLACE)
        ]
        expected = [row["allowed"] for row in rows for _ in (ASSOCIATE, REPLACE)]
        allowed = iam.allowed(role_policy(patterns.split(",")), requests)
        wrong = [
            str(request)
            for request, is_allowed in zip(requests, expected, strict=True)
            if (request in allowed) is not is_allowed
        ]
        assert wrong == [], f"with AllowedProfiles={patterns}"


def test_the_template_takes_every_list_of_that_table() -> None:
    pattern = cloudformation.template()["Parameters"]["AllowedProfiles"]["AllowedPattern"]
    each = {text for patterns in table() for text in patterns.split(",")}
    assert [text for text in each if not re.fullmatch(pattern, text)] == []
