"""The pictures in docs/: GitHub can show them, and they say what the template and the sources say."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

import cloudformation

ROOT = cloudformation.TEMPLATE.parent
DOCS = ROOT / "docs"
SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["architecture", "dashboard", "decision-flow"]
# GitHub shows a README's pictures in about this width; what is wider becomes smaller, its text too.
WIDTH = 830
SMALLEST_TEXT = 11


def picture(name: str) -> ElementTree.Element:
    return ElementTree.parse(DOCS / f"{name}.svg").getroot()


def words(element: ElementTree.Element) -> str:
    """All that can be read in a picture, in the file's order."""
    shown = (" ".join(text.itertext()) for text in element.iter(f"{SVG}text"))
    return re.sub(r"\s+", " ", " ".join(shown))


def read(file: str) -> str:
    return (ROOT / file).read_text()


def body(source: str, function: str) -> str:
    """A function's text, up to the brace that rustfmt indents as it does the function."""
    found = re.search(rf"^( *)(?:pub )?fn {function}\b.*?^\1}}", source, re.MULTILINE | re.DOTALL)
    assert found, f"there is no function {function}"
    return found[0]


# ---- What any picture must be ----


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_says_what_it_shows(name: str) -> None:
    svg = picture(name)
    assert svg.tag == f"{SVG}svg"
    assert svg.get("role") == "img"
    by_id = {element.get("id"): element for element in svg.iter() if element.get("id")}
    for kind in ("title", "desc"):
        (found,) = svg.findall(f"{SVG}{kind}")
        assert found.text and found.text.strip()
        assert by_id[kind] is found
    assert svg.get("aria-labelledby") == "title desc"


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_can_be_read_on_github_by_day_and_by_night(name: str) -> None:
    svg = picture(name)
    _, _, width, height = map(float, (svg.get("viewBox") or "").split())
    assert (svg.get("width"), svg.get("height")) == (f"{width:g}", f"{height:g}")
    assert width <= WIDTH
    text = (DOCS / f"{name}.svg").read_text()
    sizes = [float(size) for size in re.findall(r"font-size: ?([\d.]+)px", text)]
    assert sizes and min(sizes) >= SMALLEST_TEXT
    # Either scheme has a ground of its own.
    assert text.count(".card {") == 2
    assert text.count("@media (prefers-color-scheme: dark)") == 1


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.svg")), ids=lambda path: path.stem)
def test_a_picture_runs_and_fetches_nothing(path: Path) -> None:
    svg = ElementTree.parse(path).getroot()
    for element in svg.iter():
        assert element.tag.removeprefix(SVG) not in {"script", "foreignObject", "image", "use", "a", "iframe"}
        for attribute, value in element.attrib.items():
            assert not attribute.startswith("on"), attribute
            assert not attribute.endswith("href"), value
    text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "", 1)
    assert not re.search(r"https?:|//|@import|@font-face|data:|<!DOCTYPE|<!ENTITY|<\?", text)
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {"#tip"}


# ---- The architecture ----

# A kind of resource, and the words that stand for it.
DRAWN = {
    "AWS::CloudWatch::Alarm": "Alarms",
    "AWS::CloudWatch::Dashboard": "Dashboard",
    "AWS::Events::Rule": "EventBridge",
    "AWS::Logs::LogGroup": "CloudWatch: logs and metrics",
    "AWS::Logs::QueryDefinition": "Saved queries",
    "AWS::SQS::Queue": "SQS queue",
    "AWS::Scheduler::Schedule": "Schedule",
    "AWS::Serverless::Function": "Lambda function",
}
# What only belongs to those.
NOT_DRAWN = {"AWS::IAM::Role", "AWS::SQS::QueuePolicy", "AWS::Serverless::LayerVersion"}


def test_the_architecture_names_the_kinds_of_resources() -> None:
    kinds = {resource["Type"] for resource in cloudformation.template()["Resources"].values()}
    assert kinds == DRAWN.keys() | NOT_DRAWN
    shown = words(picture("architecture"))
    for each in DRAWN.values():
        assert each in shown
    for each in ("Dead-letter queue", "EC2", "IAM", "A person", "Your topic", "Your bus"):
        assert each in shown


def test_the_architecture_names_each_rule() -> None:
    resources = cloudformation.template()["Resources"]
    rules = [name for name, resource in resources.items() if resource["Type"] == "AWS::Events::Rule"]
    shown = words(picture("architecture"))
    for rule in rules:
        assert re.sub(r"(?<!^)([A-Z])", r" \1", rule.removesuffix("Rule")).capitalize() in shown


def test_the_architecture_names_each_function() -> None:
    shown = words(picture("architecture"))
    for function in cloudformation.FUNCTIONS:
        assert function in shown


def test_the_architecture_tells_of_the_batches_and_sweeps_that_the_template_has() -> None:
    source = cloudformation.template()
    event = source["Resources"]["EventFunction"]["Properties"]["Events"]["Queue"]["Properties"]
    description = " ".join((picture("architecture").findtext(f"{SVG}desc") or "").split())
    assert f"batches of up to {event['BatchSize']} messages" in description
    every = source["Parameters"]["SweepEvery"]["Default"].removeprefix("1 ")
    assert f"a sweep each {every}" in words(picture("architecture"))


# ---- The decision ----


@dataclass(frozen=True)
class End:
    """Where the flow ends."""

    row: int
    decision: str
    reason: str


def ends() -> dict[End, str]:
    """Each with its standing. What IAM refuses is an error; it has no row."""
    found: dict[End, str] = {}
    for group in picture("decision-flow").iter(f"{SVG}g"):
        kind, _, standing = (group.get("class") or "").partition(" ")
        if kind != "end":
            continue
        row, decision, reason = (text.text or "" for text in group.iter(f"{SVG}text"))
        if decision == "error":
            assert (row, reason, standing) == ("–", "Denied", "failed")
            continue
        end = End(int(row), decision, reason)
        assert found.get(end, standing) == standing
        found[end] = standing
    return found


def test_the_flow_ends_in_the_rows_and_reasons_that_decide_has() -> None:
    decide = read("src/decide.rs")
    rows = {int(row) for row in re.findall(r"=> (\d+),", body(decide, "row"))}
    assert rows == set(range(1, 22))
    assert {end.row for end in ends()} == rows
    reasons = set(re.findall(r'"([a-z0-9-]+)"', body(decide, "reason_code")))
    passing = set(re.findall(r'Self::(?:LookUp\(_\)|Confirm) => "([a-z-]+)"', body(decide, "reason_code")))
    assert passing == {"profile-needed", "tags-needed"}
    assert {end.reason for end in ends()} == reasons - passing


def test_the_flow_ends_in_the_lines_of_the_table() -> None:
    table = re.findall(r"^\| (\d+) \|(?:[^|]*\|){3} `([a-z-]+)` \| ([^|]*) \|", read("docs/SEMANTICS.md"), re.MULTILINE)
    assert ends().keys() == {
        End(int(row), decision, reason)
        for row, decision, reasons in table
        for reason in re.findall(r"`([a-z0-9-]+)`", reasons)
    }


def test_the_flow_has_the_colours_of_the_standings() -> None:
    arms = re.findall(
        r"Decision::Leave\(([^)]*(?:\([^)]*\)[^)]*)*)\) => Standing::(\w+)", body(read("src/report.rs"), "standing")
    )
    standings = {
        variant: standing.lower() for arm, standing in arms for variant in re.findall(r"Leave::(\w+)", arm)
    }
    # One of them has two reasons.
    reasons = re.findall(r'Leave::(\w+)[^=]*=>\s*\{?\s*"([a-z0-9-]+)"', body(read("src/decide.rs"), "reason_code"))
    left = {reason: standings[variant] for variant, reason in reasons}
    shown = ends()
    assert {end.reason: standing for end, standing in shown.items() if end.decision == "leave"} == left
    assert {end.reason: standing for end, standing in shown.items() if end.decision == "wait"} == {
        "instance-state": "waiting",
        "instance-stopped": "waiting",
        # These two are failures: a profile that is not there is for a person to make.
        "instance-unseen": "failed",
        "profile-unknown": "blocked",
    }
    others = {end.decision: standing for end, standing in shown.items() if end.decision not in {"leave", "wait"}}
    assert others.pop("keep") == "right"
    assert others == dict.fromkeys(("associate", "put-back", "remove", "replace", "swap"), "change")


# ---- The dashboard ----


def test_the_dashboard_is_drawn_as_the_template_has_it() -> None:
    subprocess.run([sys.executable, DOCS / "dashboard.py", "--check"], check=True, timeout=60)


@pytest.fixture
def dashboard() -> ModuleType:
    spec = spec_from_file_location("dashboard", DOCS / "dashboard.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    # Its dataclasses look for it there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def say(dashboard: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the template say something else."""

    def instead(old: str, new: str) -> None:
        source = cloudformation.TEMPLATE.read_text()
        assert source.count(old) == 1
        parsed = cloudformation.yaml_parse(source.replace(old, new))
        monkeypatch.setattr(dashboard.cloudformation, "template", lambda: parsed)

    return instead


def test_each_widget_has_its_title(dashboard: ModuleType) -> None:
    _, widgets = dashboard.dashboard()
    shown = words(picture("dashboard"))
    titles = [widget["properties"]["title"] for widget in widgets if "title" in widget["properties"]]
    assert titles
    for title in titles:
        assert title in shown


def test_its_figures_are_called_an_example() -> None:
    assert "Example figures, made up" in words(picture("dashboard"))


def test_another_title_makes_another_picture(dashboard: ModuleType, say: Any) -> None:
    say('"title": "Changes"', '"title": "Deeds"')
    assert ">Deeds<" in dashboard.picture()


def test_another_place_makes_another_picture(dashboard: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dashboard.picture()
    name, widgets = dashboard.dashboard()
    widgets[-1]["y"] += 1
    monkeypatch.setattr(dashboard, "dashboard", lambda: (name, widgets))
    assert dashboard.picture() != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"Swapped"', '"Shuffled"'),
        ('MetricName=\\"Blocked\\"', 'MetricName=\\"Barred\\"'),
        ("`error.type`, reason, message\n", "`error.type`, excuse, message\n"),
        ('"view": "table"', '"view": "pie"'),
    ],
)
def test_what_has_no_figures_is_not_drawn(dashboard: ModuleType, say: Any, old: str, new: str) -> None:
    say(old, new)
    with pytest.raises(SystemExit, match=r"docs/dashboard\.py"):
        dashboard.picture()
