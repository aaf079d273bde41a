"""The runbook and the operations manual: each code has its section, what can be copied is right."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import boto3
import jmespath
import jsonschema
import pytest
from botocore import xform_name
from moto.events.models import EventPattern

import cloudformation

ROOT = cloudformation.TEMPLATE.parent
DOCS = ROOT / "docs"
RUNBOOK = (DOCS / "RUNBOOK.md").read_text()
OPERATIONS = (DOCS / "OPERATIONS.md").read_text()
SOURCES = {path: path.read_text() for path in sorted((ROOT / "src").rglob("*.rs"))}


def body(file: str, function: str) -> str:
    """A function's text, up to the brace that rustfmt indents as it does the function."""
    source = (ROOT / "src" / file).read_text()
    start = re.search(rf"^( *)(?:pub )?fn {function}\b", source, re.MULTILINE)
    assert start, f"{file} has no {function}()"
    end = source.index(f"\n{start[1]}}}\n", start.start())
    return source[start.start() : end]


def words(text: str) -> set[str]:
    found = set(re.findall(r'"([A-Za-z0-9-]+)"', text))
    assert found, "the source is not read as it should be"
    return found


def outcomes() -> set[str]:
    """The words of all outcomes; Disposition has a word() too, further down."""
    return words(body("report.rs", "word"))


def error_types() -> set[str]:
    malformed = re.search(r'const MALFORMED: &str = "(\w+)";', (ROOT / "src/failure.rs").read_text())
    assert malformed
    return words(body("failure.rs", "error_type")) | {malformed[1], "Misconfigured"}


def reason_codes() -> set[str]:
    return words(body("decide.rs", "reason_code"))


# What has a section besides: an outcome that a person must act on, and a sweep's finding.
OTHERS = {"not-repaired", "association-stuck"}


def headings(level: int, text: str = RUNBOOK) -> list[str]:
    return re.findall(rf"^{'#' * level} (.+)$", without_code(text), re.MULTILINE)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def alarms_of_template() -> set[str]:
    resources = cloudformation.template()["Resources"]
    return {name for name, of in resources.items() if of["Type"] == "AWS::CloudWatch::Alarm"}


# ---- Each code and each alarm has its section, and no section is about nothing ----


def test_each_code_has_a_section_and_no_section_names_a_code_that_does_not_exist() -> None:
    codes = [heading.strip("`") for heading in headings(3)]
    assert all(heading == f"`{code}`" for heading, code in zip(headings(3), codes, strict=True))
    assert len(codes) == len(set(codes))
    assert set(codes) == reason_codes() | error_types() | OTHERS


def test_what_has_a_section_and_is_neither_reason_nor_error_is_a_word_of_the_source() -> None:
    assert "not-repaired" in outcomes()
    for word in OTHERS:
        assert any(f'"{word}"' in source for source in SOURCES.values()), word


def test_each_alarm_has_a_section_and_no_section_names_an_alarm_that_does_not_exist() -> None:
    alarms = alarms_of_template()
    assert alarms, "the template has no alarm"
    assert {heading for heading in headings(2) if heading.endswith("Alarm")} == alarms


def sections() -> dict[str, str]:
    parts = re.split(r"^#{2,3} (`[^`]+`|\w+Alarm)$", RUNBOOK, flags=re.MULTILINE)
    return {
        name: re.split(r"^## ", text, flags=re.MULTILINE)[0]
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@pytest.mark.parametrize("name", sections())
def test_a_section_says_what_it_means_how_to_see_it_and_what_to_do_and_fits_a_screen(
    name: str,
) -> None:
    text = sections()[name]
    assert re.findall(r"^\*\*(.+?)\*\*", text, re.MULTILINE) == ["Means", "See it", "Do"]
    see = text.split("**See it**")[1].split("**Do**")[0]
    assert "`" in see, "there is nothing to copy"
    assert len(text) < 1_900
    if name.endswith("Alarm"):
        assert "\n1. First: " in text
        assert "\nBack to OK: " in text


def test_it_begins_with_where_to_start() -> None:
    assert headings(2)[:2] == ["Start here", "What you see"]
    start = RUNBOOK.split("\n## ")[1]
    assert re.findall(r"^# (\d)\. ", start, re.MULTILINE) == ["1", "2", "3"]


def test_each_section_can_be_found_by_what_one_sees() -> None:
    table = RUNBOOK.split("## What you see")[1].split("\n## ")[0]
    for name in sections():
        assert f"](#{anchor(name)})" in table, name


# ---- Links ----


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("file", ["RUNBOOK.md", "OPERATIONS.md"])
def test_each_link_leads_somewhere(file: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", without_code((DOCS / file).read_text())):
        path, _, fragment = target.partition("#")
        text = (DOCS / (path or file)).resolve().read_text()
        if fragment:
            every = [anchor(heading) for level in range(1, 5) for heading in headings(level, text)]
            assert fragment in every, target


# ---- What can be copied ----


def shell() -> list[str]:
    """All blocks of shell and all commands in a line, continued lines joined."""
    texts = []
    for text in (RUNBOOK, OPERATIONS):
        texts += re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        inline = re.findall(r"(``+|`)(?! *\n)(.+?)\1", without_code(text))
        texts += [code.strip() for _, code in inline if re.match(r" ?(aws|lines|letters) ", code)]
    return [text.replace("\\\n", " ") for text in texts]


def test_what_can_be_copied_is_shell() -> None:
    assert len(shell()) > 60
    for text in shell():
        checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
        assert checked.returncode == 0, text + checked.stderr


def aws_commands() -> list[tuple[str, str, tuple[str, ...]]]:
    found = []
    for text in shell():
        for line in text.split("\n"):
            for command in re.split(r"\baws (?=[a-z])", line.replace(" && ", "\n"))[1:]:
                service, operation, *rest = re.split(r"\s+", command.split("\n")[0])
                if service == "cloudformation" and operation == "wait":
                    operation = f"wait {rest.pop(0)}"
                options = tuple(re.findall(r"(?:^| )--([a-z-]+)", " ".join(rest)))
                found.append((service, operation.strip("`)"), options))
    return sorted(set(found))


def test_the_aws_commands_are_there_and_have_these_options() -> None:
    session: Any = boto3.Session(region_name="us-east-1")
    clients = {service: session.client(service) for service, _, _ in aws_commands()}
    assert len(aws_commands()) > 30
    # Of every command, and one that the command line renames.
    everywhere = {"query", "output", "region", "cli-binary-format", "cli-read-timeout"}
    renamed = {"notification-endpoint": "endpoint"}
    for service, operation, options in aws_commands():
        client, command = clients[service], f"aws {service} {operation} {options}"
        if operation.startswith("wait "):
            assert operation.removeprefix("wait ").replace("-", "_") in client.waiter_names, command
            continue
        model = client.meta.service_model
        operations = {xform_name(name, "-"): name for name in model.operation_names}
        assert operation in operations, command
        shape = model.operation_model(operations[operation]).input_shape
        given = {renamed.get(option, option).removeprefix("no-") for option in options} - everywhere
        assert given <= {xform_name(name, "-") for name in shape.members}, command
        if options:
            assert {xform_name(name, "-") for name in shape.required_members} <= given, command


def test_each_query_of_an_answer_can_be_read() -> None:
    quoted = r"""--query\s+(?:'([^']+)'|"([^"]+)"|(\w+(?:\.\w+)*))"""
    queries = [first or second or third for text in shell()
               for first, second, third in re.findall(quoted, text)]
    assert len(queries) > 15
    for query in queries:
        jmespath.compile(query.replace("$STACK", "stack").replace("$1", "Key"))


def test_conditions_on_the_log_name_fields_and_words_that_it_has() -> None:
    conditions = [condition for text in shell()
                  for condition in re.findall(r"\blines \d+ '([^']+)'", text)]
    assert len(conditions) > 20
    every = "".join(SOURCES.values()).replace("r#", "")
    for condition in conditions:
        for word in re.findall(r'\breason = "([^"]+)"', condition):
            assert word in reason_codes() | OTHERS, condition
        for word in re.findall(r'`error\.type` = "([^"]+)"', condition):
            assert word in error_types(), condition
        for listed in re.findall(r"\boutcome (?:=|in) (\"[^\"]+\"|\[[^]]+\])", condition):
            assert all(f'"{word}"' in every for word in words(listed)), condition
        for field in re.findall(r"`([a-z_.]+)`", condition):
            assert field in every, condition


def test_the_fields_that_the_text_names_are_the_logs() -> None:
    fields = set(re.findall(r"`((?:found|changed|profile|sweep)\.[a-z_]+)\b", OPERATIONS + RUNBOOK))
    assert fields >= {"found.by", "changed.by", "sweep.instances"}
    every = "".join(SOURCES.values()).replace("r#", "")
    assert {field for field in fields if field not in every} == set()


def test_the_parameters_that_the_text_names_are_the_templates() -> None:
    parameters = cloudformation.template()["Parameters"]
    changed = set(re.findall(r"\bchange ([A-Z]\w+) ", OPERATIONS)) - {"KEY"}
    assert changed >= {"Mode", "SweepEvery", "Drift", "AlarmTopicArn", "EventBusArn"}
    assert changed <= set(parameters)
    table = OPERATIONS.split("| `SweepEvery` | for |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w[\w ]*)`", table)) - {"Drift"} <= set(
        parameters["SweepEvery"]["AllowedValues"]
    )


def test_the_example_of_a_notification_matches_its_rule_and_the_schema() -> None:
    pattern, event = (
        json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", OPERATIONS, re.M | re.S)
    )
    assert EventPattern.load(json.dumps(pattern)).matches_event(event)
    assert event["detail"]["reason-code"] in reason_codes()
    schema = json.loads((DOCS / "notification.schema.json").read_text())
    jsonschema.validate(event["detail"], schema)
