"""Alarms, dashboard and saved queries name only what the function emits, and say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from textwrap import dedent
from typing import Any

import pytest

import cloudformation
from cloudformation import ACCOUNT, REGION, Stack

ROOT = cloudformation.TEMPLATE.parent
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
GIVEN: dict[str, Any] = {
    "AllowedProfiles": ["web"],
    "PassableRoles": [f"arn:aws:iam::{ACCOUNT}:role/web"],
}

BUS = f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/ops"
# With everything that adds an alarm, or a metric to one.
EVERYTHING = {**GIVEN, "Mode": "enforce", "Drift": "on", "EventBusArn": BUS}

ALARMS = [
    *["CredentialsLostAlarm", "DeadLettersAlarm", "DeniedAlarm", "FlappingAlarm", "StuckAlarm"],
    *["NoncompliantAlarm", "SweepMissingAlarm", "SweepIncompleteAlarm", "OldestMessageAlarm"],
    *["FunctionErrorsAlarm", "ThrottledAlarm", "DeliveryFailedAlarm", "NotificationsFailedAlarm"],
]
OF_SWEEPS = {"NoncompliantAlarm", "SweepMissingAlarm", "SweepIncompleteAlarm"}
# What each stack has, whatever its parameters.
ALWAYS = [name for name in ALARMS if name not in {*OF_SWEEPS, "NotificationsFailedAlarm"}]
QUERIES = ["WhatHappenedQuery", "ComesUpBareQuery", "WhatIsBlockedQuery"]

# Each of our metrics has this dimension, and these one more in a second set.
DIMENSION = "FunctionName"
SECOND_DIMENSION = {"Blocked": "Reason", "Failed": "ErrorType"}
# AWS's own metrics, by namespace and dimension.
AWS_METRICS = {
    ("AWS/SQS", "QueueName"): {
        "ApproximateAgeOfOldestMessage",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesVisible",
    },
    ("AWS/Lambda", "FunctionName"): {
        "AsyncEventsDropped",
        "DestinationDeliveryFailures",
        "Errors",
        "Throttles",
    },
    ("AWS/Events", "RuleName"): {"FailedInvocations", "InvocationsFailedToBeSentToDlq"},
}
# Fields that Logs Insights and the log's JSON format give every line.
OF_EVERY_LINE = {"@timestamp", "level", "message"}

COLUMNS = 24


@pytest.fixture(scope="module")
def stack() -> Stack:
    return cloudformation.deploy(EVERYTHING)


# ---- What the sources say ----


def read(file: str) -> str:
    """A file of the project. Where it is missing the test fails, for it cannot check anything."""
    path = ROOT / file
    assert path.is_file(), f"{file} is not there"
    return path.read_text()


def namespace_in(source: str) -> str:
    found = re.search(r'\bpub const NAMESPACE: &str\s*=\s*"([^"]+)";', source)
    assert found, "the source has no NAMESPACE"
    return found[1]


def metrics_in(source: str) -> set[str]:
    """The names of the metrics: an enum's variants, which serde writes as they are."""
    found = re.search(r"#\[derive\([^]]*\bSerialize\b[^]]*\)\]\npub enum Metric \{\n(.*?)\n\}", source, re.DOTALL)
    assert found, "the source has no enum Metric that is serialized"
    names = re.findall(r"^    ([A-Z]\w*),$", found[1], re.MULTILINE)
    assert names, "the enum Metric is not read as it should be"
    return set(names)


def fields_in(source: str) -> set[str]:
    """The fields of tracing's events; `error.r#type` is error.type there. A variable is none."""
    name = r"(?<![\w.#])(?<!\blet )(?<!\bmut )([a-z][\w#]*(?:\.[a-z][\w#]*)*)"
    found = re.findall(rf"{name} =\s", source)
    return {name.replace("r#", "") for name in found}


def headings_in(markdown: str) -> set[str]:
    return set(re.findall(r"^#{2,3} (\w+)$", markdown, re.MULTILINE))


def emitted() -> set[str]:
    return metrics_in(read("src/metrics.rs"))


def logged() -> set[str]:
    """What any log line of an instance or a sweep can have."""
    return fields_in(read("src/report.rs")) | fields_in(read("src/handler/sweep.rs"))


def test_the_sources_are_read_as_they_should_be() -> None:
    source = dedent("""
        pub const NAMESPACE: &str = "Sample";
        #[derive(Debug, Clone, Serialize)]
        pub enum Metric {
            /// One of them.
            One,
            /// Another.
            Two,
        }
        pub enum Other {
            Three,
        }
        tracing::event!(level, instance.id = id, error.r#type = self.error(), outcome = "x", "{m}");
        let reason = sweep.parts == 3;
    """)
    assert namespace_in(source) == "Sample"
    assert metrics_in(source) == {"One", "Two"}
    assert fields_in(source) >= {"instance.id", "error.type", "outcome"}
    assert not {"sweep.parts", "reason"} & fields_in(source)
    assert headings_in("# A\n\n## OneAlarm\n\ntext ## TwoAlarm\n### ThreeAlarm\n") == {
        *{"OneAlarm", "ThreeAlarm"}
    }


# ---- Metrics ----


@dataclass(frozen=True)
class Metric:
    """A metric that something in the template names, with its dimensions."""

    where: str
    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]


def sources_of(alarm: Any) -> dict[str, Any]:
    """The metrics that an alarm looks at, by the name that its expression has for them."""
    if "Metrics" not in alarm:
        return {"": alarm}
    return {each["Id"]: each["MetricStat"]["Metric"] for each in alarm["Metrics"][1:]}


def metrics_of_alarms(stack: Stack) -> Iterator[Metric]:
    for name, alarm in stack.of_type("AWS::CloudWatch::Alarm").items():
        for source in sources_of(alarm).values():
            dimensions = tuple((each["Name"], each["Value"]) for each in source["Dimensions"])
            yield Metric(name, source["Namespace"], source["MetricName"], dimensions)


def metrics_of_dashboard(stack: Stack) -> Iterator[Metric]:
    for widget in widgets(stack):
        title = widget["properties"].get("title", "")
        before: list[str] = []
        for line in widget["properties"].get("metrics", []):
            if isinstance(line[0], dict):
                yield searched(title, line[0]["expression"])
                continue
            # A dot repeats what stands in the line above.
            words = [
                before[at] if word == "." else word
                for at, word in enumerate(word for word in line if isinstance(word, str))
            ]
            dimensions = tuple(zip(words[2::2], words[3::2], strict=True))
            yield Metric(title, words[0], words[1], dimensions)
            before = words


def searched(title: str, expression: str) -> Metric:
    """What a SEARCH looks for; a dimension that it leaves open is `*`."""
    found = re.fullmatch(
        r"SEARCH\('\{([\w/]+),([\w,]+)\} MetricName=\"(\w+)\" \((.+)\)', '(\w+)', \d+\)", expression
    )
    assert found, expression
    given = [re.fullmatch(r'(\w+)="([^"]+)"', term) for term in found[4].split(" OR ")]
    # Either function's: the first stands for both.
    terms = [(term[1], term[2]) for term in given if term]
    assert terms == [(DIMENSION, function) for function in cloudformation.FUNCTIONS]
    names = found[2].split(",")
    first = dict(terms[:1])
    return Metric(title, found[1], found[3], tuple((name, first.get(name, "*")) for name in names))


def all_metrics(stack: Stack) -> list[Metric]:
    return [*metrics_of_alarms(stack), *metrics_of_dashboard(stack)]


def test_each_metric_is_one_that_the_function_or_aws_emits(stack: Stack) -> None:
    ours, names = namespace_in(read("src/metrics.rs")), emitted()
    found = all_metrics(stack)
    assert len(found) > 25, "the template is not read as it should be"
    for metric in found:
        if metric.namespace == ours:
            assert metric.name in names, metric
        else:
            (dimension,) = (name for name, _ in metric.dimensions)
            assert metric.name in AWS_METRICS[metric.namespace, dimension], metric


def test_each_metric_of_ours_has_dimensions_under_which_it_is_emitted(stack: Stack) -> None:
    source = read("src/metrics.rs")
    for dimension in (DIMENSION, *SECOND_DIMENSION.values()):
        assert f'"{dimension}"' in source, f"no metric has the dimension {dimension}"
    for metric in all_metrics(stack):
        if metric.namespace == namespace_in(source):
            sets = [{DIMENSION}]
            if metric.name in SECOND_DIMENSION:
                sets.append({DIMENSION, SECOND_DIMENSION[metric.name]})
            assert {name for name, _ in metric.dimensions} in sets, metric


def test_each_metric_is_of_this_stack(stack: Stack) -> None:
    of_stack = {
        "FunctionName": set(cloudformation.FUNCTIONS),
        "QueueName": {"Queue", "DeadLetterQueue"},
        "RuleName": set(stack.of_type("AWS::Events::Rule")),
    }
    for metric in all_metrics(stack):
        for name, value in metric.dimensions:
            if name in of_stack:
                assert value.removesuffix(".QueueName") in of_stack[name], metric


def test_the_fleet_s_metrics_are_those_of_the_function_that_sweeps(stack: Stack) -> None:
    for metric in all_metrics(stack):
        if metric.name.startswith("Swe"):
            assert metric.dimensions == (("FunctionName", "SweepFunction"),), metric


def test_the_errors_that_alarms_wait_for_are_errors_of_the_function(stack: Stack) -> None:
    words = {
        value
        for metric in metrics_of_alarms(stack)
        for name, value in metric.dimensions
        if name == "ErrorType"
    }
    assert words == {"Denied", "RollbackFailed"}
    for word in words:
        assert f'"{word}"' in read("src/failure.rs")


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_s_expression_names_each_metric_that_it_looks_at(stack: Stack, name: str) -> None:
    alarm = stack.properties(name)
    if "Metrics" not in alarm:
        return
    expression, *others = alarm["Metrics"]
    named = re.findall(r"[a-z]\w*", expression["Expression"])
    assert sorted(named) == sorted(each["Id"] for each in others)
    # Of several results CloudWatch would not know which one to look at; and it takes ten metrics of one period.
    assert "ReturnData" not in expression
    assert all(each["ReturnData"] is False for each in others)
    assert len({each["MetricStat"]["Period"] for each in others}) == 1
    assert len(others) <= 10


def test_what_happens_in_either_function_alarms_in_either(stack: Stack) -> None:
    for name in ("DeniedAlarm", "FunctionErrorsAlarm", "NotificationsFailedAlarm"):
        sources = sources_of(stack.properties(name)).values()
        functions = [each["Dimensions"][0]["Value"] for each in sources]
        assert functions == list(cloudformation.FUNCTIONS), name


@pytest.mark.parametrize("drift", ["off", "on"])
def test_a_delivery_that_failed_alarms_whichever_rule_it_was(drift: str) -> None:
    stack = cloudformation.deploy(GIVEN, Drift=drift)
    sources = sources_of(stack.properties("DeliveryFailedAlarm")).values()
    watched = {(each["Dimensions"][0]["Value"], each["MetricName"]) for each in sources}
    metrics = AWS_METRICS["AWS/Events", "RuleName"]
    assert watched == {(rule, name) for rule in stack.of_type("AWS::Events::Rule") for name in metrics}
    expression = stack.properties("DeliveryFailedAlarm")["Metrics"][0]["Expression"]
    assert len(expression.split(" + ")) == len(watched)


def test_dead_letters_that_somebody_looks_at_count_too(stack: Stack) -> None:
    alarm = stack.properties("DeadLettersAlarm")
    assert alarm["Metrics"][0]["Expression"] == "waiting + taken"
    assert [each["MetricName"] for each in sources_of(alarm).values()] == [
        "ApproximateNumberOfMessagesVisible",
        "ApproximateNumberOfMessagesNotVisible",
    ]


def test_the_dashboard_shows_what_operators_ask_for(stack: Stack) -> None:
    shown = {metric.name for metric in metrics_of_dashboard(stack)}
    assert shown >= {
        *{"SweptRight", "SweptWrong", "SweptBlocked", "SweptStuck"},
        *{"Associated", "Replaced", "Swapped", "Removed", "Planned", "TimeToAssociated"},
        *{"Blocked", "Failed", "Flapping", "NotRepaired", "Stuck", "NotificationsFailed"},
        *{"ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible", "Errors"},
        *{"Throttles", "FailedInvocations", "InvocationsFailedToBeSentToDlq"},
    }
    # An alarm that shows on no graph leaves a person without the past.
    alone = {metric.name for metric in metrics_of_alarms(stack)} - shown
    assert alone <= {"SweepCompleted", "SweepIncomplete"}


# ---- Alarms ----


def alarms_with(**parameters: Any) -> list[str]:
    return list(cloudformation.deploy({**GIVEN, **parameters}).of_type("AWS::CloudWatch::Alarm"))


def test_the_alarms_are_these(stack: Stack) -> None:
    assert list(stack.of_type("AWS::CloudWatch::Alarm")) == ALARMS
    assert alarms_with(SweepEvery="never", Mode="enforce") == ALWAYS
    # In a dry run what is wrong stays wrong.
    assert set(alarms_with()) == {*ALWAYS, *OF_SWEEPS} - {"NoncompliantAlarm"}
    assert set(alarms_with(Mode="enforce")) == {*ALWAYS, *OF_SWEEPS}


def test_what_the_alarms_cost_is_written_down(stack: Stack) -> None:
    def price(**parameters: Any) -> str:
        alarms = cloudformation.deploy({**GIVEN, **parameters}).of_type("AWS::CloudWatch::Alarm")
        # CloudWatch charges $0.10 a month for each metric that an alarm looks at.
        return f"${sum(len(sources_of(alarm)) for alarm in alarms.values()) / 10:.2f}"

    least, most = price(), price(Mode="enforce", Drift="on", EventBusArn=BUS)
    said = " ".join(read("docs/OPERATIONS.md").split())
    assert f"{least} a month as the stack comes, {most} with everything on" in said


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_says_what_it_means_what_to_do_first_and_where_there_is_more(
    stack: Stack, name: str
) -> None:
    description = stack.properties(name)["AlarmDescription"]
    assert len(description) <= 1024, "CloudWatch takes no more"
    assert " First: " in description
    assert description.endswith(f" More: docs/RUNBOOK.md, {name}.")
    assert name in headings_in(read("docs/RUNBOOK.md"))
    # Other alarms that it sends a person to.
    assert set(re.findall(r"\b(\w+Alarm)\b", description)) <= set(ALARMS)
    for query in re.findall(r'saved query "([^"]+)"', description):
        assert query in saved_queries(stack)


def test_each_alarm_says_what_missing_data_means(stack: Stack) -> None:
    alarms = stack.of_type("AWS::CloudWatch::Alarm")
    treated = {name: alarm["TreatMissingData"] for name, alarm in alarms.items()}
    expected = dict.fromkeys(ALARMS, "notBreaching")
    # Only a sweep says something new of the stuck, of what is wrong, and of how far sweeps come; that no sweep ends
    # is the alarm itself.
    holding = ["StuckAlarm", "NoncompliantAlarm", "SweepIncompleteAlarm"]
    expected |= dict.fromkeys(holding, "ignore") | {"SweepMissingAlarm": "breaching"}
    assert treated == expected
    # Without sweeps nothing would ever turn it off again.
    never = cloudformation.deploy(GIVEN, SweepEvery="never")
    assert never.properties("StuckAlarm")["TreatMissingData"] == "notBreaching"


def test_alarms_tell_the_topic_if_there_is_one(stack: Stack) -> None:
    for alarm in stack.of_type("AWS::CloudWatch::Alarm").values():
        assert not {"AlarmActions", "OKActions", "InsufficientDataActions"} & set(alarm)
    telling = cloudformation.deploy(EVERYTHING, AlarmTopicArn=TOPIC)
    assert list(telling.of_type("AWS::CloudWatch::Alarm")) == ALARMS
    for alarm in telling.of_type("AWS::CloudWatch::Alarm").values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [TOPIC]


@pytest.mark.parametrize(
    ("every", "seconds"),
    [
        *[("15 minutes", 900), ("1 hour", 3600), ("3 hours", 10800)],
        *[("6 hours", 21600), ("12 hours", 43200), ("1 day", 86400)],
    ],
)
def test_a_missing_sweep_is_noticed_when_two_in_a_row_did_not_come(
    every: str, seconds: int
) -> None:
    alarm = cloudformation.deploy(GIVEN, SweepEvery=every).properties("SweepMissingAlarm")
    period, patience = alarm["Period"], alarm["Period"] * alarm["EvaluationPeriods"]
    assert 2 * seconds < patience < 3 * seconds
    # Sweeps have data in fewer periods than there are, so CloudWatch takes the others for breaching;
    # otherwise it would look further back for data, and the alarm would be late.
    assert patience / seconds + 1 < alarm["EvaluationPeriods"]
    # CloudWatch's own limits.
    assert period % 60 == 0
    assert patience <= (86_400 if period < 3600 else 604_800)
    assert every in alarm["AlarmDescription"]


@pytest.mark.parametrize(
    ("every", "seconds"),
    [
        *[("15 minutes", 900), ("1 hour", 3600), ("3 hours", 10800)],
        *[("6 hours", 21600), ("12 hours", 43200), ("1 day", 86400)],
    ],
)
def test_what_two_sweeps_in_a_row_found_wrong_alarms(every: str, seconds: int) -> None:
    alarm = cloudformation.deploy(GIVEN, Mode="enforce", SweepEvery=every).properties(
        "NoncompliantAlarm"
    )
    # A period for each sweep; of two in one period both must have found something.
    assert (alarm["Period"], alarm["EvaluationPeriods"], alarm["Statistic"]) == (seconds, 2, "Minimum")
    assert "DatapointsToAlarm" not in alarm
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("GreaterThanThreshold", 0)
    assert seconds * 2 <= (86_400 if seconds < 3600 else 604_800)


def period_of(alarm: Any) -> int:
    if "Metrics" in alarm:
        return int(alarm["Metrics"][1]["MetricStat"]["Period"])
    return int(alarm["Period"])


def test_an_alarm_holds_while_what_it_is_about_comes_again(stack: Stack) -> None:
    def holds(name: str) -> int:
        alarm = stack.properties(name)
        assert alarm["DatapointsToAlarm"] == 1
        return period_of(alarm) * (alarm["EvaluationPeriods"] - 1)

    # The longest delay of a message; an hourly sweep; a cooldown, and the 4 hours that its three corrections may take.
    assert holds("DeniedAlarm") >= 15 * 60
    assert holds("CredentialsLostAlarm") >= 3600
    assert holds("FlappingAlarm") >= 5 * 3600


def test_lost_credentials_alarm_at_once(stack: Stack) -> None:
    assert period_of(stack.properties("CredentialsLostAlarm")) <= 300


def test_a_sweep_that_ends_takes_back_that_one_did_not(stack: Stack) -> None:
    alarm = stack.properties("SweepIncompleteAlarm")
    assert alarm["Metrics"][0]["Expression"] == "incomplete + 0 * complete"
    assert [each["MetricName"] for each in sources_of(alarm).values()] == [
        "SweepIncomplete",
        "SweepCompleted",
    ]


def test_a_throttle_or_two_wake_nobody_and_a_dropped_sweep_does(stack: Stack) -> None:
    alarm = stack.properties("ThrottledAlarm")
    names = {id: each["MetricName"] for id, each in sources_of(alarm).items()}

    def is_on(**counts: int) -> bool:
        value = eval(alarm["Metrics"][0]["Expression"], dict.fromkeys(names, 0) | counts)  # noqa: S307
        return bool(value >= alarm["Threshold"])

    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
    assert not is_on(throttled_events=2, throttled_sweeps=2)
    assert is_on(throttled_events=5)
    assert is_on(dropped_sweeps=1) and is_on(dropped_events=1) and is_on(undelivered=1)
    assert set(names.values()) == AWS_METRICS["AWS/Lambda", "FunctionName"] - {"Errors"}


def test_an_error_that_stays_shows_in_as_many_periods_as_the_alarm_wants(stack: Stack) -> None:
    alarm = stack.properties("FunctionErrorsAlarm")
    again = stack.properties("Queue")["VisibilityTimeout"]
    assert (alarm["EvaluationPeriods"] * period_of(alarm)) // again >= alarm["DatapointsToAlarm"]


def test_the_age_that_alarms_is_far_below_the_one_at_which_messages_are_lost(stack: Stack) -> None:
    threshold = stack.properties("OldestMessageAlarm")["Threshold"]
    assert threshold == 4 * 3600 < stack.properties("Queue")["MessageRetentionPeriod"] / 12


# ---- The dashboard ----


def body(stack: Stack) -> Any:
    return json.loads(stack.properties("Dashboard")["DashboardBody"])


def widgets(stack: Stack) -> list[Any]:
    found = body(stack)["widgets"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("every", ["never", "1 hour"])
def test_the_dashboards_body_is_json_without_anything_unresolved(every: str) -> None:
    stack = cloudformation.deploy(GIVEN, SweepEvery=every)
    text = stack.properties("Dashboard")["DashboardBody"]
    assert json.loads(text)
    # What is left is CloudWatch's own, for labels.
    left = set(re.findall(r"\$\{([^}]*)\}", text))
    assert left == {"PROP('Dim.Reason')", "PROP('Dim.ErrorType')"}


def test_the_widgets_lie_on_the_grid_and_do_not_overlap(stack: Stack) -> None:
    covered = []
    for widget in widgets(stack):
        x, y, width, height = (widget[key] for key in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and width >= 1 and height >= 1 and x + width <= COLUMNS, widget
        covered.append({(x + i, y + j) for i in range(width) for j in range(height)})
    assert len(covered) > 8
    for one, other in combinations(covered, 2):
        assert not one & other
    # And leave no hole, so that nothing moves up when CloudWatch draws them.
    everything = set().union(*covered)
    rows = max(y for _, y in everything) + 1
    assert everything == {(x, y) for x in range(COLUMNS) for y in range(rows)}


def test_the_first_row_is_the_alarms_and_the_fleet(stack: Stack) -> None:
    row = [widget for widget in widgets(stack) if widget["y"] == 0]
    top = sorted(row, key=lambda widget: widget["x"])
    assert [widget["type"] for widget in top] == ["alarm", "metric"]
    assert top[1]["properties"]["view"] == "singleValue"
    labels = [line[-1]["label"] for line in top[1]["properties"]["metrics"]]
    assert labels[:4] == ["right", "wrong", "blocked", "stuck"]


@pytest.mark.parametrize("mode", ["dry-run", "enforce"])
@pytest.mark.parametrize("bus", ["", BUS])
@pytest.mark.parametrize("every", ["never", "1 hour"])
def test_the_dashboard_shows_each_alarm_that_there_is(every: str, bus: str, mode: str) -> None:
    stack = cloudformation.deploy(GIVEN, SweepEvery=every, EventBusArn=bus, Mode=mode)
    (shown,) = (widget for widget in widgets(stack) if widget["type"] == "alarm")
    there = {f"{name}.Arn" for name in stack.of_type("AWS::CloudWatch::Alarm")}
    assert set(shown["properties"]["alarms"]) == there
    assert len(shown["properties"]["alarms"]) == len(there)


def test_each_graph_is_of_the_stacks_region(stack: Stack) -> None:
    for widget in widgets(stack):
        if widget["type"] in ("metric", "log"):
            assert widget["properties"]["region"] == REGION
            assert widget["properties"]["title"]


def test_the_dashboard_says_what_to_do(stack: Stack) -> None:
    (text,) = (widget for widget in widgets(stack) if widget["type"] == "text")
    markdown = text["properties"]["markdown"]
    assert markdown.startswith("### What to do\n")
    assert len(re.findall(r"^ ?\d\. ", markdown, re.MULTILINE)) == 5
    for query in saved_queries(stack):
        assert f"*{query}*" in markdown
    for output in re.findall(r"output (\w+)", markdown):
        assert output in stack.outputs


def test_dashboards_of_two_regions_do_not_share_a_name(stack: Stack) -> None:
    # An account's dashboards are named across its Regions.
    assert stack.properties("Dashboard")["DashboardName"] == f"stack-{REGION}"


@pytest.mark.parametrize(
    ("partition", "host"),
    [
        ("aws", "console.aws.amazon.com"),
        ("aws-cn", "console.amazonaws.cn"),
        ("aws-us-gov", "console.amazonaws-us-gov.com"),
    ],
)
def test_the_dashboards_address_is_the_partitions(partition: str, host: str) -> None:
    outputs = cloudformation.deploy(GIVEN, partition).outputs
    assert outputs["DashboardName"]["Value"] == "Dashboard"
    assert outputs["DashboardUrl"]["Value"] == (
        f"https://{REGION}.{host}/cloudwatch/home?region={REGION}#dashboards/dashboard/Dashboard"
    )


# ---- Queries ----


def saved_queries(stack: Stack) -> dict[str, Any]:
    """The saved queries, by their name without the stack's folder."""
    found = stack.of_type("AWS::Logs::QueryDefinition").values()
    return {query["Name"].removeprefix("stack/"): query for query in found}


def texts(stack: Stack) -> dict[str, str]:
    """Every query on the log, the dashboard's among them."""
    found = {name: query["QueryString"] for name, query in saved_queries(stack).items()}
    for widget in widgets(stack):
        if widget["type"] == "log":
            source, _, query = widget["properties"]["query"].partition(" | ")
            assert source == "SOURCE 'LogGroup'"
            found[widget["properties"]["title"]] = query
    return found


def fields_of(query: str) -> set[str]:
    """The log's fields that a query reads: not its words, functions, strings and own names."""
    query = re.sub(r"^ *#.*$", "", query, flags=re.MULTILINE)
    quoted = set(re.findall(r"`([^`]+)`", query))
    query = re.sub(r"`[^`]+`", " ", query)
    query = re.sub(r'"[^"]*"', " ", query)
    given = set(re.findall(r"\bas (\w+)", query))
    words = set("fields filter stats sort limit by as and or not in like desc asc".split())
    words |= {"ispresent", "count", "count_distinct", "latest", "earliest", "max", "min"}
    bare = set(re.findall(r"@?[A-Za-z_][\w.]*", query))
    dotted = {name for name in bare if "." in name}
    assert not dotted, f"Logs Insights wants backquotes around {dotted}"
    return quoted | bare - given - words


def test_the_queries_are_read_as_they_should_be() -> None:
    query = """# Put in an id.
        fields @timestamp, `profile.from`, message
        | filter `instance.id` = "i-0" and standing = "right"
        | stats count_distinct(`instance.id`) as instances, max(@timestamp) as lately by reason
        | sort instances desc | limit 5"""
    assert fields_of(query) == {
        *{"@timestamp", "profile.from", "message", "instance.id", "standing", "reason"}
    }


def test_the_saved_queries_are_these_and_in_the_stacks_folder(stack: Stack) -> None:
    assert list(stack.of_type("AWS::Logs::QueryDefinition")) == QUERIES
    for query in stack.of_type("AWS::Logs::QueryDefinition").values():
        # What CloudWatch Logs takes for a name, with a folder.
        assert re.fullmatch(r"stack/[^:*/]{1,200}", query["Name"])
        assert query["LogGroupNames"] == ["LogGroup"]


def test_each_field_that_a_query_reads_is_one_that_the_function_logs(stack: Stack) -> None:
    known = logged() | OF_EVERY_LINE
    assert len(texts(stack)) == 4
    for name, query in texts(stack).items():
        assert fields_of(query) <= known, name


def test_what_happened_to_an_instance_takes_an_id_and_shows_its_story(stack: Stack) -> None:
    query = saved_queries(stack)["what happened to an instance"]["QueryString"]
    assert query.count("i-0123456789abcdef0") == 1
    (shown,) = re.findall(r"^fields (.+)$", query, re.MULTILINE)
    columns = [column.strip("` ") for column in shown.split(",")]
    assert columns[:5] == ["@timestamp", "outcome", "reason", "profile.from", "profile.to"]
    # The sentence is long, so it comes last.
    assert columns[-1] == "message"


def test_the_word_that_a_query_filters_by_is_one_that_the_function_logs(stack: Stack) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    for query in texts(stack).values():
        for word in re.findall(r'standing = "([^"]+)"', query):
            assert f'"{word}"' in sources


def test_an_emulator_gets_no_saved_queries_and_no_alarms_over_sums_and_everything_else() -> None:
    there = cloudformation.deploy(EVERYTHING)
    stack = cloudformation.deploy(EVERYTHING, EndpointUrl="http://127.0.0.1:4566")
    alarms = there.of_type("AWS::CloudWatch::Alarm")
    sums = {name for name, alarm in alarms.items() if "Metrics" in alarm}
    assert set(there.resources) - set(stack.resources) == {*QUERIES, *sums}
    # The dashboard names no alarm that is not there.
    (shown,) = (widget for widget in widgets(stack) if widget["type"] == "alarm")
    assert set(shown["properties"]["alarms"]) == {f"{name}.Arn" for name in alarms if name not in sums}
