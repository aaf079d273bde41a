"""The dashboard as a picture: `dashboard.py` writes docs/dashboard.svg, `dashboard.py --check` compares.

Widgets, places, titles, labels, colours and thresholds come from the template's own DashboardBody. The figures are made
up: a day of a fleet of 1,200 instances, 150 of which are launched at noon without an instance profile.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "dashboard.svg"
sys.path.insert(0, str(ROOT / "tests" / "python"))

import cloudformation  # noqa: E402 (it is found only now)

STACK, REGION = "auto-instance-profile", "us-east-1"
GIVEN = {"Mode": "enforce", "AllowedProfiles": ["web", "app/*"], "PassableRoles": []}
FOOTER = [
    "Example figures, made up: one day of a fleet of 1,200 instances, 150 of which are launched at noon without an instance "
    "profile.",
    "Widgets, titles, labels and colours are the template's; docs/dashboard.py draws them.",
]

# ---- The figures ----

PERIOD = 5
Series = Mapping[int, float]  # A value for each period that has one, by its minute of the day.


def at(text: str) -> Series:
    """`08:15 6, 09:40 3`: these minutes alone have a value."""
    return {_minute(time): float(value) for time, value in map(str.split, text.split(", "))}


def always(other: str = "", usual: float = 0) -> Series:
    """Each period has a value: the usual one, where no other is given."""
    return dict.fromkeys(range(0, 24 * 60, PERIOD), usual) | (at(other) if other else {})


def hourly(text: str) -> Series:
    """A value with each full hour: what a sweep counts. It stays until the next one is given."""
    given, last, values = at(text), 0.0, {}
    for minute in range(0, 24 * 60, 60):
        last = given.get(minute, last)
        values[minute] = last
    return values


def _minute(time: str) -> int:
    hours, minutes = time.split(":")
    return int(hours) * 60 + int(minutes)


FLEET = hourly("00:00 1050, 13:00 1200")
BLOCKED = hourly("00:00 1, 09:00 3, 11:00 4, 15:00 5, 17:00 6, 20:00 5")
WRONG = hourly("00:00 0, 04:00 1, 05:00 0, 15:00 2, 16:00 0")
LEFT = hourly("00:00 32")
RIGHT = {minute: FLEET[minute] - BLOCKED[minute] - WRONG[minute] - LEFT[minute] for minute in FLEET}

# By what a metric is about (its dimension's resource), its name, and its statistic where two are shown.
FIGURES: Mapping[str, Series] = {
    "SweepFunction SweptInstances": FLEET,
    "SweepFunction SweptRight": RIGHT,
    "SweepFunction SweptWrong": WRONG,
    "SweepFunction SweptBlocked": BLOCKED,
    "SweepFunction SweptStuck": hourly("00:00 0"),
    "SweepFunction SweptFailed": hourly("00:00 0"),
    "SweepFunction SweptLeft": LEFT,
    "EventFunction Associated": at(
        "00:35 1, 02:10 2, 04:00 1, 05:50 3, 07:30 4, 08:15 6, 08:40 3, 09:50 3, 10:20 5, 11:10 2, 12:00 88, 12:05 62, "
        "13:25 4, 14:05 2, 15:00 2, 15:40 6, 17:20 3, 18:45 2, 20:30 1, 22:15 2"
    ),
    "EventFunction Replaced": at("08:40 2, 14:20 7, 16:30 3"),
    "EventFunction Swapped": at("19:30 5"),
    "EventFunction Removed": at("21:10 3"),
    "EventFunction Planned": {},
    "EventFunction TimeToAssociated p50": at(
        "00:35 1800, 02:10 1700, 05:50 1900, 07:30 2000, 08:15 2100, 08:40 1900, 09:50 1800, 10:20 2000, 11:10 1800, "
        "12:00 2900, 12:05 2600, 13:25 1900, 14:05 1700, 14:20 2100, 15:40 2000, 16:30 1900, 17:20 1800, 18:45 1800, "
        "19:30 2300, 20:30 1700, 22:15 1800"
    ),
    "EventFunction TimeToAssociated p99": at(
        "00:35 1900, 02:10 2300, 05:50 2700, 07:30 2900, 08:15 3200, 08:40 2600, 09:50 2500, 10:20 3100, 11:10 2400, "
        "12:00 6800, 12:05 5900, 13:25 2700, 14:05 2300, 14:20 3300, 15:40 3000, 16:30 2500, 17:20 3600, 18:45 2300, "
        "19:30 3700, 20:30 1800, 22:15 2300"
    ),
    "EventFunction OldestMessageAge": at(
        "00:35 1, 02:10 1, 05:50 1, 07:30 1, 08:15 1, 08:40 1, 09:10 1, 09:15 301, 09:25 905, 09:40 1812, 10:20 1, "
        "12:00 9, 12:05 7, 14:20 1, 15:40 1, 17:20 16, 19:30 1, 22:15 1"
    ),
    "Queue ApproximateAgeOfOldestMessage": always(
        "09:10 4, 09:15 300, 09:20 600, 09:25 900, 09:30 1200, 09:35 1500, 09:40 1800, 12:00 9, 12:05 7, 17:20 16"
    ),
    "Queue ApproximateNumberOfMessagesVisible": always(
        "05:50 1, 07:30 1, 08:15 2, 10:20 1, 12:00 34, 12:05 21, 14:20 3, 15:40 2, 19:30 1"
    ),
    "Queue ApproximateNumberOfMessagesNotVisible": always(
        "08:15 3, 08:40 3, 09:10 3, 09:15 3, 09:20 3, 09:25 3, 09:30 3, 09:35 3, 09:50 3, 10:20 4, 12:00 50, 12:05 41, "
        "13:25 3, 14:20 6, 15:40 5, 17:20 2, 19:30 4"
    ),
    "DeadLetterQueue ApproximateNumberOfMessagesVisible": always(),
    # What never happens has no values at all; Lambda counts the invocations that fail or are throttled, 0 too.
    "EventFunction Flapping": {},
    "EventFunction NotRepaired": {},
    "EventFunction Stuck": {},
    "EventFunction FollowUpsLost": {},
    "EventFunction NotificationsFailed": {},
    "EventFunction AsyncEventsDropped": {},
    "SweepFunction AsyncEventsDropped": {},
    "SweepFunction DestinationDeliveryFailures": {},
    **{
        f"{function} {name}": always()
        for function in ("EventFunction", "SweepFunction")
        for name in ("Errors", "Throttles")
    },
    **{
        f"{rule} {name}": {}
        for rule in ("StateChangeRule", "TagChangeRule")
        for name in ("FailedInvocations", "InvocationsFailedToBeSentToDlq")
    },
}
# What SEARCH finds, by the metric it searches for: a metric for each value of its second dimension.
FOUND: Mapping[str, Mapping[str, Series]] = {
    "Blocked": {
        "not-allowed": at("08:20 2"),
        "invalid-profile": at("10:35 1, 16:05 1"),
        "role-does-not-trust-ec2": at("14:20 1"),
    },
    "Failed": {
        "Denied": at("09:10 3, 09:15 3, 09:25 3"),
        "InstanceNotFound": at("12:00 2, 12:05 1"),
        "Transient": at("17:20 1"),
    },
}
UNITS = {"TimeToAssociated": "Milliseconds"}
DENIED = (
    "instance {}: a call to AWS failed: AssociateIamInstanceProfile was denied: the caller needs iam:PassRole on "
    "arn:aws:iam::123456789012:role/batch (UnauthorizedOperation): …"
)
LOGGED = [
    {
        "@timestamp": f"{time}.{thousandth}",
        "instance.id": instance,
        "error.type": "Denied",
        "reason": "bare",
        "message": DENIED.format(instance),
    }
    for time in ("09:25:41", "09:15:22", "09:10:09")
    for thousandth, instance in (("559", "i-0a1b2c3d4e5f60003"), ("348", "i-0a1b2c3d4e5f60002"), ("137", "i-0a1b2c3d4e5f60001"))
]

# ---- What the dashboard shows, as the template has it ----


def dashboard() -> tuple[str, list[dict[str, Any]]]:
    """Its name and its widgets."""
    source = cloudformation.template()
    parameters = {name: GIVEN.get(name, it.get("Default")) for name, it in source["Parameters"].items()}
    pseudo = {
        "AWS::AccountId": cloudformation.ACCOUNT,
        "AWS::NoValue": cloudformation.NO_VALUE,
        "AWS::Partition": "aws",
        "AWS::Region": REGION,
        "AWS::StackName": STACK,
    }
    context = cloudformation._Context({**parameters, **pseudo}, source["Conditions"])
    properties = context.resolve(source["Resources"]["Dashboard"]["Properties"])
    return properties["DashboardName"], json.loads(properties["DashboardBody"])["widgets"]


@dataclass(frozen=True)
class Line:
    """A metric of a widget, with its figures."""

    label: str
    colour: str
    values: Series
    unit: str


# CloudWatch's own, for what has no colour of its own.
COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"]


def lines(widget: Mapping[str, Any]) -> list[Line]:
    """The metrics of a widget. Each must have figures here."""
    found, above = [], []
    for metric in widget["metrics"]:
        *names, options = metric if isinstance(metric[-1], dict) else [*metric, {}]
        if "expression" in options:
            searched = re.search(r'MetricName="(\w+)"', options["expression"])
            figures = FOUND.get(searched[1]) if searched else None
            if figures is None:
                raise SystemExit(f"docs/dashboard.py has no figures for {options['expression']}")
            found += [
                Line(label, COLOURS[(len(found) + place) % len(COLOURS)], values, "Count")
                for place, (label, values) in enumerate(figures.items())
            ]
            continue
        # A dot repeats what stands in the line above.
        names = above = [above[place] if name == "." else name for place, name in enumerate(names)]
        name, about = names[1], names[-1].split(".")[0]
        key = f"{about} {name}"
        values = FIGURES.get(key, FIGURES.get(f"{key} {options.get('stat', widget['stat'])}"))
        if values is None:
            raise SystemExit(f"docs/dashboard.py has no figures for {key}")
        colour = options.get("color", COLOURS[len(found) % len(COLOURS)])
        found.append(Line(options.get("label", name), colour, values, UNITS.get(name, "Count")))
    return found


# ---- Text ----

# Advances in a wide font, DejaVu Sans, in thousandths of its size: what fits in it fits in Helvetica and Arial.
ADVANCES = {
    **dict.fromkeys("ijlI'| .,:;", 320),
    **dict.fromkeys("!tfr()[]/-*\"`", 400),
    **dict.fromkeys("cksvxyz", 560),
    **dict.fromkeys("ABCDEFGHKNOPQRSTUVXYZ", 720),
    **dict.fromkeys("mwMW@%", 940),
}
USUAL = 610
BOLD = 1.1


def width(text: str, size: float, bold: bool = False) -> float:
    """How much room a text takes at most."""
    return sum(ADVANCES.get(character, USUAL) for character in text) / 1000 * size * (BOLD if bold else 1)


def wrapped(text: str, size: float, room: float, bold: bool = False) -> list[str]:
    """The text in lines that fit."""
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if found[-1] and width(longer, size, bold) > room:
            found.append(word)
        else:
            found[-1] = longer
    return found


def put(x: float, y: float, words: str, kind: str = "small", **more: object) -> str:
    """A line of text; `words` is a text, not markup."""
    return put_markup(x, y, escape(words, quote=False), kind, **more)


def put_markup(x: float, y: float, markup: str, kind: str, **more: object) -> str:
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{attributes}>{markup}</text>'


def rectangle(x: float, y: float, wide: float, high: float, kind: str = "", **more: object) -> str:
    """A rectangle, by class or by attributes."""
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    named = f' class="{kind}"' if kind else ""
    return f'<rect{named} x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}"{attributes}/>'


# ---- The widgets ----

WIDE, MARGIN, COLUMNS = 830, 14, 24
COLUMN, ROW, GAP, TOP = (WIDE - 2 * MARGIN) / COLUMNS, 40, 3, 46
SMALL, TITLE = 11, 12.5


@dataclass(frozen=True)
class Box:
    """Where something is drawn."""

    x: float
    y: float
    wide: float
    high: float

    @property
    def right(self) -> float:
        return self.x + self.wide

    @property
    def bottom(self) -> float:
        return self.y + self.high


def alarms(box: Box, widget: Mapping[str, Any]) -> Iterator[str]:
    """A line for each alarm. All is well at the end of the day."""
    step = min(24.0, box.high / len(widget["alarms"]))
    for place, alarm in enumerate(widget["alarms"]):
        y = box.y + step * (place + 0.5)
        yield rectangle(box.x, y - 5, 10, 10, "ok", rx=3)
        yield put(box.x + 18, y + 4, alarm.split(".")[0])
        yield put(box.right, y + 4, "OK", "small", text_anchor="end")


def single_values(box: Box, widget: Mapping[str, Any]) -> Iterator[str]:
    """The newest values side by side, each over its day."""
    shown = lines(widget)
    step = box.wide / len(shown)
    for place, line in enumerate(shown):
        x, room = box.x + step * place, step - 10
        yield rectangle(x, box.y + 6, 10, 10, rx=2, fill=line.colour)
        yield put(x + 15, box.y + 15, line.label)
        newest = line.values[max(line.values)]
        yield put(x, box.y + 50, f"{newest:,.0f}", "number")
        if widget.get("sparkline"):
            low, high = min(line.values.values()), max(line.values.values())
            floor, tall = box.bottom - 4, box.bottom - box.y - 70
            points = " ".join(
                f"{x + room * minute / (23 * 60):.1f},{floor - tall * (value - low) / ((high - low) or 1):.1f}"
                for minute, value in line.values.items()
            )
            yield f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="1.5"/>'


def time_series(box: Box, widget: Mapping[str, Any]) -> Iterator[str]:
    """Lines or stacked columns over a day, with axes, thresholds and a legend."""
    shown = lines(widget)
    axis = widget.get("yAxis", {}).get("left", {})
    thresholds = widget.get("annotations", {}).get("horizontal", [])
    legend = list(_legend(box, shown))
    plot = Box(box.x + 42, box.y + 22, box.wide - 56, box.high - 22 - 22 - 16 * len(legend))
    stacked = widget.get("stacked", False)
    totals: dict[int, float] = {}
    for line in shown:
        for minute, value in line.values.items():
            totals[minute] = totals.get(minute, 0) + value if stacked else max(totals.get(minute, 0), value)
    step, top = _scale(max([1, *totals.values(), *(each["value"] for each in thresholds)]))

    def up(value: float) -> float:
        return plot.bottom - plot.high * value / top

    def along(minute: float) -> float:
        return plot.x + plot.wide * minute / (24 * 60)

    yield put(box.x, box.y + 9, axis.get("label", shown[0].unit))
    for mark in range(round(top / step) + 1):
        y = up(mark * step)
        yield f'<path class="grid" d="M{plot.x:.1f} {y:.1f} H{plot.right:.1f}"/>'
        yield put(plot.x - 6, y + 4, f"{mark * step:,g}", text_anchor="end")
    for hour in range(0, 25, 6):
        yield put(along(hour * 60), plot.bottom + 16, f"{hour:02}:00", text_anchor="middle")
    for threshold in thresholds:
        y = up(threshold["value"])
        yield f'<path class="threshold" d="M{plot.x:.1f} {y:.1f} H{plot.right:.1f}"/>'
        yield put(plot.right, y + 14, threshold["label"], text_anchor="end")
    below: dict[int, float] = {}
    for line in shown:
        if not stacked:
            yield from _line(line, up, along)
            continue
        for minute, value in line.values.items():
            floor = below.get(minute, 0)
            below[minute] = floor + value
            wide = max(along(PERIOD) - along(0), 2.5)
            yield rectangle(along(minute), up(floor + value), wide, up(floor) - up(floor + value), fill=line.colour)
    for place, entries in enumerate(legend):
        y = box.bottom - 16 * (len(legend) - place) + 12
        for x, line in entries:
            yield rectangle(x, y - 9, 10, 10, rx=2, fill=line.colour)
            yield put(x + 15, y, line.label)


def _scale(highest: float) -> tuple[float, float]:
    """The step between marks, and the highest mark: 3 to 5 steps of 1, 2 or 5."""
    steps = (factor * 10**power for power in range(7) for factor in (1, 2, 5))
    step = next(step for step in steps if highest <= 4.5 * step)
    marks = next(marks for marks in range(1, 6) if highest <= marks * step)
    return step, marks * step


FEW = 3


def _line(line: Line, up: Any, along: Any) -> Iterator[str]:
    """Points next to each other are joined; few that stand alone are dots."""
    runs: list[list[int]] = []
    for minute in sorted(line.values):
        if runs and minute - runs[-1][-1] == PERIOD:
            runs[-1].append(minute)
        else:
            runs.append([minute])
    for run in runs:
        points = [f"{along(minute):.1f},{up(line.values[minute]):.1f}" for minute in run]
        if len(run) > FEW:
            # What lies on a level needs only its ends.
            level = [up(line.values[minute]) for minute in run]
            kept = [
                point
                for place, point in enumerate(points)
                if place in (0, len(run) - 1) or not level[place - 1] == level[place] == level[place + 1]
            ]
            yield f'<polyline points="{" ".join(kept)}" fill="none" stroke="{line.colour}" stroke-width="1.6"/>'
        else:
            for x, y in (point.split(",") for point in points):
                yield f'<circle cx="{x}" cy="{y}" r="2.2" fill="{line.colour}"/>'


def _legend(box: Box, shown: Iterable[Line]) -> Iterator[list[tuple[float, Line]]]:
    """As many labels in a row as fit."""
    row: list[tuple[float, Line]] = []
    x = box.x
    for line in shown:
        room = 15 + width(line.label, SMALL)
        if row and x + room > box.right:
            yield row
            row, x = [], box.x
        row.append((x, line))
        x += room + 14
    yield row


def markdown(box: Box, widget: Mapping[str, Any]) -> Iterator[str]:
    """Headings, numbered lists, **bold** and *slanted* text."""
    y = box.y + 2.0
    for block in filter(None, (block.strip() for block in widget["markdown"].split("\n"))):
        if heading := re.match(r"#+ (.*)", block):
            y += 12
            yield put(box.x, y, heading[1], "title")
            y += 5
            continue
        number = re.match(r"(\d+\.) ", block)
        indent = 18 if number else 0
        if number:
            yield put(box.x, y + 12, number[1])
            block = block[number.end() :]
        slant, bold = False, False
        # Words keep their marks while they are wrapped: room for a mark or two is left over in bold lines.
        for row in wrapped(block, SMALL, box.wide - indent):
            y += 13.5
            markup = ""
            for piece in re.split(r"(\*\*|\*)", row):
                bold, slant = bold ^ (piece == "**"), slant ^ (piece == "*")
                if piece and piece not in ("**", "*"):
                    kind = "strong" if bold else "slant" if slant else ""
                    words = escape(piece, quote=False)
                    markup += f'<tspan class="{kind}">{words}</tspan>' if kind else words
            yield put_markup(box.x + indent, y, markup, "small")
        y += 4.5


def log_table(box: Box, widget: Mapping[str, Any]) -> Iterator[str]:
    """The newest lines, with the fields that the query names."""
    named = re.search(r"\| fields ([^|]+)", widget["query"])
    assert named, "the query names no fields"
    fields = [field.strip(" `") for field in named[1].split(",")]
    for field in fields:
        if field not in LOGGED[0]:
            raise SystemExit(f"docs/dashboard.py has no figures for the field {field}")
    rooms = [16 + max(width(field, SMALL, True), *(width(line[field], SMALL) for line in LOGGED)) for field in fields]
    # The widest takes what the others leave.
    rooms[rooms.index(max(rooms))] = box.wide - sum(rooms) + max(rooms)
    starts = list(accumulate(rooms, initial=box.x))
    for start, field in zip(starts, fields, strict=False):
        yield put(start, box.y + 12, field, "strong small")
    y = box.y + 20
    for line in LOGGED:
        cells = [wrapped(line[field], SMALL, room - 8) for field, room in zip(fields, rooms, strict=True)]
        high = 14 * max(map(len, cells)) + 8
        if y + high > box.bottom:
            break
        yield f'<path class="grid" d="M{box.x:.1f} {y:.1f} H{box.right:.1f}"/>'
        for start, rows in zip(starts, cells, strict=False):
            for place, row in enumerate(rows):
                yield put(start, y + 15 + 14 * place, row)
        y += high


KINDS = {
    "alarm": alarms,
    "metric singleValue": single_values,
    "metric timeSeries": time_series,
    "text": markdown,
    "log table": log_table,
}


def widgets(all_of_them: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Each with its frame and title."""
    for widget in all_of_them:
        properties = widget["properties"]
        kind = f"{widget['type']} {properties.get('view', '')}".strip()
        if kind not in KINDS:
            raise SystemExit(f"docs/dashboard.py cannot draw a widget of the kind {kind}")
        x, y = MARGIN + widget["x"] * COLUMN + GAP, TOP + widget["y"] * ROW + GAP
        wide, high = widget["width"] * COLUMN - 2 * GAP, widget["height"] * ROW - 2 * GAP
        yield "<g>"
        yield rectangle(x, y, wide, high, "widget", rx=6)
        title = properties.get("title")
        rows = wrapped(title, TITLE, wide - 20, True) if title else []
        for place, row in enumerate(rows):
            yield put(x + 10, y + 19 + 16 * place, row, "title")
        head = 10 + 16 * len(rows) if rows else 2
        yield from KINDS[kind](Box(x + 10, y + head, wide - 20, high - head - 8), properties)
        yield "</g>"


STYLE = """
.card { fill: #f7f8fa; stroke: #d5dae1; stroke-width: 1.5 }
.widget { fill: #ffffff; stroke: #c9d0d9 }
.grid { fill: none; stroke: #dfe4ea }
.threshold { fill: none; stroke: #b5483a; stroke-dasharray: 5 4 }
.ok { fill: #2ca02c }
text { fill: #1d232b }
.small { font-size: 11px }
.title { font-size: 12.5px; font-weight: bold }
.name { font-size: 17px; font-weight: bold }
.number { font-size: 21px }
.strong { font-weight: bold }
.slant { font-style: italic }
@media (prefers-color-scheme: dark) {
  .card { fill: #0f141a; stroke: #30363d }
  .widget { fill: #1a2028; stroke: #3a424c }
  .grid { stroke: #2f3741 }
  .threshold { stroke: #d9695b }
  text { fill: #e6edf3 }
}"""


def picture() -> str:
    """The picture as it should be."""
    name, all_of_them = dashboard()
    bottom = TOP + ROW * max(widget["y"] + widget["height"] for widget in all_of_them)
    high = bottom + 52
    titles = ", ".join(it["properties"]["title"] for it in all_of_them if "title" in it["properties"])
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high}" width="{WIDE}" height="{high}" role="img"',
        "     aria-labelledby=\"title desc\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">",
        '<title id="title">auto-instance-profile: the dashboard, with example figures</title>',
        f'<desc id="desc">{escape(titles, quote=False)}. {escape(" ".join(FOOTER), quote=False)}</desc>',
        f"<style>{STYLE}\n</style>",
        rectangle(1, 1, WIDE - 2, high - 2, "card", rx=12),
        put(MARGIN + GAP, 31, name, "name"),
        put(WIDE - MARGIN - GAP, 31, "CloudWatch dashboard", text_anchor="end"),
        *widgets(all_of_them),
        *(put(MARGIN + GAP, bottom + 20 + 16 * place, row) for place, row in enumerate(FOOTER)),
        "</svg>",
    ]
    return "\n".join(drawn) + "\n"


def main() -> int:
    """Writes or compares the picture; answers the process's exit code."""
    if sys.argv[1:] == ["--check"]:
        if not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture():
            print("docs/dashboard.svg is not what template.yaml says: python docs/dashboard.py", file=sys.stderr)
            return 1
        return 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    PICTURE.write_text(picture(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
