"""The template: its parts fit together, and the role allows what the code calls, nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import xform_name

import cloudformation
from cloudformation import ACCOUNT, FUNCTIONS, REGION, Stack

SRC = Path(__file__).resolve().parents[2] / "src"
ADAPTERS = [SRC / "aws.rs", *sorted((SRC / "aws").glob("*.rs"))]
GIVEN: dict[str, Any] = {
    "AllowedProfiles": ["web", "app/*"],
    "PassableRoles": [f"arn:aws:iam::{ACCOUNT}:role/web"],
}
PATTERNS = ["arn:*:iam::*:instance-profile/web", "arn:*:iam::*:instance-profile/app/*"]
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
BUS = f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/ops"
# With everything that a parameter switches on.
EVERYTHING = {
    **GIVEN,
    **{"SweepEvery": "1 hour", "Drift": "on", "Tracing": "Active"},
    **{"AlarmTopicArn": TOPIC, "EventBusArn": BUS, "PolicyFile": "/opt/policy.yaml"},
}
RULES = ["StateChangeRule.Arn", "TagChangeRule.Arn"]
DRIFT_RULE = "DriftRule.Arn"
SENDS = {
    "Effect": "Allow",
    "Principal": {"Service": "events.amazonaws.com"},
    "Action": "sqs:SendMessage",
}


@pytest.fixture(scope="module")
def stack() -> Stack:
    return cloudformation.deploy(GIVEN)


def environment(stack: Stack) -> dict[str, str]:
    events, sweeps = (stack.properties(name)["Environment"]["Variables"] for name in FUNCTIONS)
    assert isinstance(events, dict)
    assert events == sweeps
    return events


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# ---- What the function is told ----


def test_a_new_user_gets_a_dry_run(stack: Stack) -> None:
    assert environment(stack)["MODE"] == "dry-run"


def test_the_parameters_reach_the_function() -> None:
    stack = cloudformation.deploy(
        GIVEN, Mode="enforce", ProfileTagKey="Role", WritesPerSecond=3, WhenStopped="swap"
    )
    assert environment(stack) == {
        "MODE": "enforce",
        "PROFILE_TAG_KEY": "Role",
        "ALLOWED_PROFILES": "web,app/*",
        "WHEN_STOPPED": "swap",
        "WRITES_PER_SECOND": 3,
        "WRITES_BURST": 90,
        "MAXIMUM_CONCURRENCY": "2",
        "QUEUE_URL": "Queue",
        "DEAD_LETTER_QUEUE_URL": "DeadLetterQueue",
        "OWN_ROLE": "FunctionRole.Arn",
    }


def test_the_event_bus_is_left_out_when_empty_and_passed_on_when_given(stack: Stack) -> None:
    assert "EVENT_BUS" not in environment(stack)
    assert environment(cloudformation.deploy(EVERYTHING))["EVENT_BUS"] == BUS


def test_a_stopped_instance_keeps_its_profile_unless_somebody_asks(stack: Stack) -> None:
    assert environment(stack)["WHEN_STOPPED"] == "wait"
    parameter = cloudformation.template()["Parameters"]["WhenStopped"]
    assert parameter["AllowedValues"] == ["wait", "swap"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_tracing_is_passed_on(stack: Stack, function: str) -> None:
    assert stack.properties(function)["TracingConfig"] == {"Mode": "PassThrough"}
    traced = cloudformation.deploy(EVERYTHING).properties(function)
    assert traced["TracingConfig"] == {"Mode": "Active"}


def test_the_endpoint_is_left_out_when_empty_and_passed_on_when_given(stack: Stack) -> None:
    assert "AWS_ENDPOINT_URL" not in environment(stack)
    given = cloudformation.deploy(GIVEN, EndpointUrl="http://127.0.0.1:4566")
    assert environment(given)["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"


def test_the_policy_file_is_left_out_when_empty_and_passed_on_when_given(stack: Stack) -> None:
    assert "POLICY_FILE" not in environment(stack)
    assert stack.outputs["PolicyInForce"]["Value"].startswith("built in: the tag InstanceProfile ")
    given = cloudformation.deploy(GIVEN, PolicyFile="/opt/policy.yaml")
    assert environment(given)["POLICY_FILE"] == "/opt/policy.yaml"
    assert given.outputs["PolicyInForce"]["Value"] == "/opt/policy.yaml"


def test_the_policy_travels_as_a_layer_of_its_own() -> None:
    source = cloudformation.template()["Resources"]["PolicyLayer"]
    # With a BuildMethod an edit would need `sam build`, which builds the function too.
    assert "BuildMethod" not in source.get("Metadata", {})
    folder = cloudformation.TEMPLATE.parent / source["Properties"]["ContentUri"]
    assert (folder / "policy.yaml").is_file()
    stack = cloudformation.deploy(GIVEN)
    (layer,) = stack.of_type("AWS::Lambda::LayerVersion")
    assert stack.resources[layer]["DeletionPolicy"] == "Delete"
    for function in FUNCTIONS:
        assert stack.properties(function)["Layers"] == [layer]


def test_an_edited_policy_makes_a_new_layer_and_changes_nothing_else() -> None:
    before = cloudformation.deploy(GIVEN).resources
    after = cloudformation.deploy(GIVEN, policy_at="s3://bucket/edited").resources
    assert set(before) ^ set(after) == {name for name in {*before, *after} if "Layer" in name}
    changed = {name for name in set(before) & set(after) if before[name] != after[name]}
    assert changed == set(FUNCTIONS)


def test_the_log_is_json_at_the_level_asked_for_and_goes_to_the_stacks_group() -> None:
    stack = cloudformation.deploy(GIVEN, LogLevel="DEBUG", LogRetentionDays=7)
    for function in FUNCTIONS:
        assert stack.properties(function)["LoggingConfig"] == {
            "LogGroup": "LogGroup",
            "LogFormat": "JSON",
            "ApplicationLogLevel": "DEBUG",
        }
    assert stack.properties("LogGroup")["RetentionInDays"] == 7


# ---- Two functions, one binary ----


def test_the_two_functions_differ_in_what_they_are_for_and_in_nothing_else(stack: Stack) -> None:
    events, sweeps = (dict(stack.properties(name)) for name in FUNCTIONS)
    own = {"Description", "MemorySize", "Timeout"}
    assert {key for key in events if events[key] != sweeps[key]} == own
    assert events.keys() == sweeps.keys()
    assert [(each["MemorySize"], each["Timeout"]) for each in (events, sweeps)] == [
        (128, 60),
        (512, 900),
    ]


def test_sam_builds_one_binary_for_both() -> None:
    # Builds that differ in nothing are one build to `sam build`: the whole of Metadata is compared.
    events, sweeps = (cloudformation.template()["Resources"][name] for name in FUNCTIONS)
    assert events["Metadata"] == sweeps["Metadata"]
    assert events["Properties"]["CodeUri"] == sweeps["Properties"]["CodeUri"] == "."


def test_a_chain_of_own_messages_is_no_loop_to_lambda(stack: Stack) -> None:
    assert [stack.properties(name)["RecursiveLoop"] for name in FUNCTIONS] == ["Allow", "Allow"]


def test_sweeps_get_the_memory_that_is_asked_for() -> None:
    large = cloudformation.deploy(GIVEN, SweepMemory=2048)
    assert [large.properties(name)["MemorySize"] for name in FUNCTIONS] == [128, 2048]
    parameter = cloudformation.template()["Parameters"]["SweepMemory"]
    assert (parameter["MinValue"], parameter["MaxValue"]) == (128, 3008)


def test_a_sweep_that_fails_is_tried_again_and_ends_as_a_dead_letter(stack: Stack) -> None:
    (config,) = stack.of_type("AWS::Lambda::EventInvokeConfig").values()
    assert config == {
        "FunctionName": "SweepFunction",
        "Qualifier": "$LATEST",
        "MaximumRetryAttempts": 2,
        "MaximumEventAgeInSeconds": 3600,
        "DestinationConfig": {"OnFailure": {"Destination": "DeadLetterQueue.Arn"}},
    }


# ---- Queues ----


def test_the_queue_the_event_source_and_the_function_fit_together(stack: Stack) -> None:
    function, queue = stack.properties("EventFunction"), stack.properties("Queue")
    (source,) = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    assert source["FunctionName"] == "EventFunction"
    window = source.get("MaximumBatchingWindowInSeconds", 0)
    assert queue["VisibilityTimeout"] >= 6 * function["Timeout"] + window
    assert queue["RedrivePolicy"] == {
        "deadLetterTargetArn": "DeadLetterQueue.Arn",
        "maxReceiveCount": 500,
    }
    assert source["EventSourceArn"] == "Queue.Arn"
    # A single event begins at once.
    assert (source["BatchSize"], window) == (10, 0)
    sharing = int(environment(stack)["MAXIMUM_CONCURRENCY"])
    assert source["ScalingConfig"] == {"MaximumConcurrency": sharing}
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_dead_letters_stay_for_two_weeks_and_longer_than_messages(stack: Stack) -> None:
    kept = stack.properties("DeadLetterQueue")["MessageRetentionPeriod"]
    assert kept == 14 * 24 * 3600 > stack.properties("Queue")["MessageRetentionPeriod"]


def test_the_queues_are_encrypted_in_the_way_that_eventbridge_can_send_to(stack: Stack) -> None:
    for queue in stack.of_type("AWS::SQS::Queue").values():
        assert queue["SqsManagedSseEnabled"] is True
        assert "KmsMasterKeyId" not in queue


@pytest.mark.parametrize(("drift", "expected"), [("off", RULES), ("on", [*RULES, DRIFT_RULE])])
def test_each_rule_delivers_to_the_queue_and_what_fails_to_the_dead_letter_queue(
    drift: str, expected: list[str]
) -> None:
    rules = cloudformation.deploy(GIVEN, Drift=drift).of_type("AWS::Events::Rule")
    assert [f"{name}.Arn" for name in rules] == expected
    for rule in rules.values():
        (target,) = rule["Targets"]
        assert target["Arn"] == "Queue.Arn"
        assert target["DeadLetterConfig"] == {"Arn": "DeadLetterQueue.Arn"}


@pytest.mark.parametrize(("drift", "expected"), [("off", RULES), ("on", [*RULES, DRIFT_RULE])])
@pytest.mark.parametrize("queue", ["Queue", "DeadLetterQueue"])
def test_the_rules_may_send_to_both_queues_and_nobody_else(
    queue: str, drift: str, expected: list[str]
) -> None:
    (policy,) = (
        policy
        for policy in cloudformation.deploy(GIVEN, Drift=drift)
        .of_type("AWS::SQS::QueuePolicy")
        .values()
        if policy["Queues"] == [queue]
    )
    allow, deny = policy["PolicyDocument"]["Statement"]
    assert allow | {"Sid": ""} == SENDS | {
        "Sid": "",
        "Resource": f"{queue}.Arn",
        "Condition": {"ArnEquals": {"aws:SourceArn": expected}},
    }
    assert deny["Effect"] == "Deny"
    assert deny["Resource"] == f"{queue}.Arn"
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


# ---- Sweeps ----

SWEEPS = {"15 minutes": 900, "1 hour": 3600, "3 hours": 10800, "6 hours": 21600, "12 hours": 43200}
SWEEPS |= {"1 day": 86400}


def test_every_value_of_the_parameter_is_known_here() -> None:
    parameter = cloudformation.template()["Parameters"]["SweepEvery"]
    assert parameter["AllowedValues"] == ["never", *SWEEPS]
    assert parameter["Default"] == "1 hour"


@pytest.mark.parametrize("every", SWEEPS)
def test_the_schedule_invokes_the_function_that_sweeps(every: str) -> None:
    stack = cloudformation.deploy(GIVEN, SweepEvery=every)
    schedule = stack.properties("SweepSchedule")
    assert schedule["ScheduleExpression"] == f"rate({every})"
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    # A start date would keep a new stack's first sweep waiting.
    assert "StartDate" not in schedule
    target = schedule["Target"]
    assert target["Arn"] == "SweepFunction.Arn"
    assert target["RoleArn"] == "SweepRole.Arn"
    assert target["DeadLetterConfig"] == {"Arn": "DeadLetterQueue.Arn"}
    # Only what is scheduled feeds the fleet's metrics.
    assert json.loads(target["Input"]) == {"sweep": {}, "scheduled": True}


def test_the_schedules_role_may_begin_sweeps_and_is_for_this_account(stack: Stack) -> None:
    role = stack.properties("SweepRole")
    assert "ManagedPolicyArns" not in role
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust == {
        "Effect": "Allow",
        "Principal": {"Service": "scheduler.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": ACCOUNT}},
    }
    (policy,) = role["Policies"]
    statements = policy["PolicyDocument"]["Statement"]
    assert [(each["Effect"], each["Action"], each["Resource"]) for each in statements] == [
        ("Allow", "lambda:InvokeFunction", "SweepFunction.Arn"),
        ("Allow", "sqs:SendMessage", "DeadLetterQueue.Arn"),
    ]


def test_without_sweeps_nothing_of_theirs_is_made(stack: Stack) -> None:
    without = cloudformation.deploy(GIVEN, SweepEvery="never").resources
    gone = {"SweepSchedule", "SweepRole", "SweepMissingAlarm", "SweepIncompleteAlarm"}
    assert set(stack.resources) - set(without) == gone
    left = json.dumps(without)
    assert "SweepMissing" not in left and "SweepIncompleteAlarm" not in left


# ---- What the role allows ----


SERVICES = ("ec2", "iam", "sqs", "events")
# EC2 asks for PassRole; the poller, the runtime and Lambda's tracing work with the function's role.
FOR_OTHERS = {
    *{"iam:PassRole", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"},
    *{"logs:CreateLogStream", "logs:PutLogEvents"},
    *{"xray:PutTraceSegments", "xray:PutTelemetryRecords"},
}
# What the role has only when a parameter asks for it.
ON_DEMAND = {"events:PutEvents", "xray:PutTraceSegments", "xray:PutTelemetryRecords"}


def actions(stack: Stack) -> set[str]:
    statements = stack.statements().values()
    return {action for statement in statements for action in as_list(statement["Action"])}


def operations_called() -> set[str]:
    """The IAM actions of the operations that the adapters' sources call. SQS's batches need their single call's right."""
    source = "".join(adapter.read_text() for adapter in ADAPTERS)
    methods = set(re.findall(r"\.([a-z_]+)\(\)", source))
    session: Any = boto3.Session(region_name=REGION)
    clients = {service: session.client(service) for service in SERVICES}
    return {
        f"{service}:{operation.removesuffix('Batch')}"
        for service, client in clients.items()
        for operation in client.meta.service_model.operation_names
        if xform_name(operation) in methods
    }


def test_the_role_allows_the_operations_that_the_code_calls_and_no_other() -> None:
    called = operations_called()
    assert {"ec2:DescribeInstances", "iam:GetInstanceProfile", "sqs:SendMessage"} <= called
    assert len(called) >= 9, "the source is not read as it should be"
    assert actions(cloudformation.deploy(EVERYTHING)) == called | FOR_OTHERS


def test_a_right_that_no_parameter_asks_for_is_not_given(stack: Stack) -> None:
    assert actions(cloudformation.deploy(EVERYTHING)) - actions(stack) == ON_DEMAND


def test_the_roles_have_only_their_own_statements(stack: Stack) -> None:
    role = stack.properties("FunctionRole")
    assert "ManagedPolicyArns" not in role
    for function in FUNCTIONS:
        assert stack.properties(function)["Role"] == "FunctionRole.Arn"
    assert set(stack.of_type("AWS::IAM::Role")) == {"FunctionRole", "SweepRole"}
    everything = cloudformation.deploy(EVERYTHING).statements().values()
    assert all(statement["Effect"] == "Allow" for statement in everything)


def test_only_what_has_no_resources_is_allowed_on_all_resources(stack: Stack) -> None:
    def on_all(stack: Stack) -> list[str]:
        statements = stack.statements().items()
        return [sid for sid, statement in statements if statement["Resource"] == "*"]

    assert on_all(stack) == ["Look"]
    assert on_all(cloudformation.deploy(EVERYTHING)) == ["Look", "SendTraces"]


def test_only_the_given_bus_is_told() -> None:
    assert cloudformation.deploy(EVERYTHING).statements()["NotifyTheBus"]["Resource"] == BUS


def test_only_allowed_profiles_of_this_account_can_be_attached(stack: Stack) -> None:
    statement = stack.statements()["AttachAllowedProfilesOnly"]
    assert statement["Resource"] == f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/*"
    assert statement["Condition"] == {
        "ArnLike": {"ec2:NewInstanceProfile": PATTERNS},
        "StringLike": {"ec2:NewInstanceProfile": f"arn:aws:iam::{ACCOUNT}:instance-profile/*"},
    }


def test_only_allowed_profiles_can_be_read(stack: Stack) -> None:
    statement = stack.statements()["ReadAllowedProfiles"]
    assert statement["Resource"] == PATTERNS
    assert statement["Condition"] == {"StringEqualsIfExists": {"aws:ResourceAccount": ACCOUNT}}


def test_only_the_given_roles_can_be_passed_and_only_to_ec2(stack: Stack) -> None:
    statement = stack.statements()["PassTheirRolesToEc2Only"]
    assert statement["Resource"] == GIVEN["PassableRoles"]
    assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


def test_in_china_ec2_has_two_names() -> None:
    statement = cloudformation.deploy(GIVEN, "aws-cn").statements()["PassTheirRolesToEc2Only"]
    assert statement["Condition"] == {
        "StringEquals": {"iam:PassedToService": ["ec2.amazonaws.com", "ec2.amazonaws.com.cn"]}
    }


def test_one_parameter_feeds_the_function_and_the_role() -> None:
    stack = cloudformation.deploy(GIVEN | {"AllowedProfiles": ["batch-?"]})
    pattern = ["arn:*:iam::*:instance-profile/batch-?"]
    attach = stack.statements()["AttachAllowedProfilesOnly"]["Condition"]
    assert environment(stack)["ALLOWED_PROFILES"] == "batch-?"
    assert attach["ArnLike"]["ec2:NewInstanceProfile"] == pattern
    assert stack.statements()["ReadAllowedProfiles"]["Resource"] == pattern


# ---- Parameters and outputs ----


def test_what_may_be_attached_has_no_default() -> None:
    parameters = cloudformation.template()["Parameters"]
    without = {name for name, parameter in parameters.items() if "Default" not in parameter}
    assert without == {"AllowedProfiles", "PassableRoles"}
    assert all(parameter["Description"] for parameter in parameters.values())


# The function refuses the same at its start, where nobody sees it.
WRONG_PATTERNS = ["", "/web", "app/", "/", "a b", "${x}", "arn:x", "web,db", "w\u0435b"]
WRONG_TOPICS = ["alarms", "https://example.com", "arn:aws:sqs:us-east-1:123456789012:alarms"]
WRONG_BUSES = ["ops", "default", f"arn:aws:events:{REGION}:{ACCOUNT}:rule/x", f"{BUS},{BUS}"]
WRONG_TAG_KEYS = ["", "a" * 129, "a\nb", "aws:x", "AWS:x", "aWs:autoscaling:groupName"]


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        ("AllowedProfiles", ["web", "app/*", "w?b", "a/b/c"], WRONG_PATTERNS),
        ("ProfileTagKey", ["InstanceProfile", "my:team/profile", "awsome"], WRONG_TAG_KEYS),
        ("PolicyFile", ["", "/opt/policy.yaml", "/a b/c.yaml"], ["policy.yaml", "/", " /opt/x"]),
        ("AlarmTopicArn", ["", TOPIC, TOPIC.replace("alarms", "a_b-c")], WRONG_TOPICS),
        ("EventBusArn", ["", BUS, BUS.replace("ops", "default")], WRONG_BUSES),
        ("EndpointUrl", ["", "http://127.0.0.1:4566"], ["127.0.0.1:4566", "http://a b"]),
        (
            "PassableRoles",
            ["arn:aws:iam::123456789012:role/app/web", "arn:aws-cn:iam::123456789012:role/web"],
            ["web", "*", "arn:aws:iam::*:role/web", "arn:aws:iam::123456789012:user/web"],
        ),
    ],
)
def test_a_wrong_value_is_refused_before_the_deployment(
    parameter: str, good: list[str], bad: list[str]
) -> None:
    pattern = cloudformation.template()["Parameters"][parameter]["AllowedPattern"]
    assert [value for value in good if not re.fullmatch(pattern, value)] == []
    assert [value for value in bad if re.fullmatch(pattern, value)] == []


def test_switching_to_enforce_keeps_every_other_parameter(stack: Stack) -> None:
    command = stack.outputs["EnforceCommand"]["Value"]
    kept = set(re.findall(r"ParameterKey=(\w+),UsePreviousValue=true", command))
    assert "ParameterKey=Mode,ParameterValue=enforce" in command
    assert kept | {"Mode"} == set(cloudformation.template()["Parameters"])


def test_each_parameter_is_in_a_group_and_has_a_label() -> None:
    template = cloudformation.template()
    interface = template["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    assert sorted(grouped) == sorted(interface["ParameterLabels"]) == sorted(template["Parameters"])


def test_words_that_yaml_takes_for_truth_are_words() -> None:
    # Unquoted, off and on are booleans to some readers of YAML.
    assert cloudformation.template()["Parameters"]["Drift"]["AllowedValues"] == ["off", "on"]
    assert cloudformation.template()["Parameters"]["Drift"]["Default"] == "off"


def test_a_sweep_can_be_tried_without_any_change(stack: Stack) -> None:
    command = stack.outputs["SweepCommand"]["Value"]
    assert "--function-name SweepFunction " in command
    payload = re.search(r"--payload '([^']+)'", command)
    assert payload
    assert json.loads(payload[1]) == {"sweep": {}, "dry-run": True}
    # Else the command line gives up when the function's timeout is reached, and tries once more.
    wait = re.search(r"--cli-read-timeout (\d+)", command)
    assert wait
    assert int(wait[1]) > stack.properties("SweepFunction")["Timeout"]


def test_an_instance_is_tried_with_the_function_of_events(stack: Stack) -> None:
    assert "--function-name EventFunction " in stack.outputs["TryItCommand"]["Value"]
