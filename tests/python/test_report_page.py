"""The page that the tool's `report --html` writes, in a real browser: Chromium, by the WebDriver protocol."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from demo import stack
from demo.processes import LOOPBACK, free_port, server

PAGE = stack.ROOT / "src" / "bin" / "auto-instance-profile" / "report.html"
SAMPLE = json.loads(Path(__file__).with_name("report_sample.json").read_text())
PLACEHOLDER = "__REPORT_JSON__"
ENTER = "\ue007"

# What would run if a text of somebody else's became part of the page.
HOSTILE = (
    "</script><script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<!--<script>",
    "\"'><svg onload=window.hit=1>",
    "${window.hit = 1} &lt;b&gt; \u2028 \u202e",
)

# The lowest contrast of any text that is seen with what stands behind it, and that text.
CONTRAST = r"""
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgb = colour => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = colour => rgb(colour).slice(0, 3)
  .map(part => part / 255).map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
const behind = element => rgb(getComputedStyle(element).backgroundColor)[3] === 255 || !element.parentElement
  ? getComputedStyle(element).backgroundColor : behind(element.parentElement);
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let worst = [99, ""];
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.matches("script, noscript, .unseen")) continue;
  const both = [light(getComputedStyle(element).color), light(behind(element))];
  const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
  if (contrast < worst[0]) worst = [contrast, texts.currentNode.data];
}
return worst;
"""


def filled(report: object) -> str:
    """The page with this report in it, made as the tool makes it."""
    text = json.dumps(report, ensure_ascii=False).replace("<", "\\u003c")
    return PAGE.read_text().replace(PLACEHOLDER, text)


class Browser:
    """One window, as far as these tests need it."""

    def __init__(self, driver: str, binary: str, profile: Path) -> None:
        self._http = requests.Session()
        self._http.trust_env = False
        self._driver = f"{driver}/session"
        options = {
            "binary": binary,
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                f"--user-data-dir={profile}",
            ],
        }
        always = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        begun = self._call("POST", "", {"capabilities": {"alwaysMatch": always}})
        self._driver += f"/{begun['sessionId']}"
        self._process = int(begun["capabilities"]["goog:processID"])

    def _call(self, method: str, path: str, body: object = None) -> Any:
        answer = self._http.request(method, self._driver + path, json=body, timeout=60)
        value = answer.json()["value"]
        assert answer.ok, f"{method} {path}: {value['error']}: {value['message']}"
        return value

    def end(self) -> None:
        try:
            self._call("DELETE", "")
        except BaseException:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            raise

    def open(self, path: Path, hash: str = "") -> None:
        # Another document, even where only the hash is new.
        self._call("POST", "/url", {"url": "about:blank"})
        self._call("POST", "/url", {"url": path.as_uri() + hash})

    def run(self, script: str, *arguments: object) -> Any:
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command: str, **parameters: object) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last time."""
        return self._call("POST", "/se/log", {"type": kind})

    def resize(self, width: int, height: int = 900, dark: bool = False, media: str = "") -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        preferences = {
            "prefers-color-scheme": "dark" if dark else "light",
            # What is clicked must not be on its way.
            "prefers-reduced-motion": "reduce",
        }
        features = [{"name": name, "value": value} for name, value in preferences.items()]
        self.devtools("Emulation.setEmulatedMedia", media=media, features=features)

    def picture(self, path: Path, whole: bool = False) -> None:
        picture = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def find(self, selector: str, text: str = "") -> str:
        """The one visible element that the selector means and that begins with this text."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter(one => one.checkVisibility() && one.textContent.trim().startsWith(arguments[1]))"
        )
        elements = self.run(script, selector, text)
        assert len(elements) == 1, f"{len(elements)} elements are {selector} {text!r}"
        return next(iter(elements[0].values()))

    def click(self, selector: str, text: str = "") -> None:
        self._call("POST", f"/element/{self.find(selector, text)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self._call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def clear(self, selector: str) -> None:
        self._call("POST", f"/element/{self.find(selector)}/clear", {})

    def press(self, key: str) -> None:
        """A key, at what has the focus."""
        strokes = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        keys = {"type": "key", "id": "keys", "actions": strokes}
        self._call("POST", "/actions", {"actions": [keys]})

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).innerText", selector).strip()

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)"
        return self.run(script, selector)

    def column(self, key: str) -> list[str]:
        return self.texts(f"#rows tr.row .c-{key}")


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser for as long as the block lasts."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.fail(
            "chromium and chromedriver are needed to test the report's page. "
            "On Debian: apt-get install chromium chromium-driver",
            pytrace=False,
        )
    port = free_port()
    command = [driver, f"--port={port}"]
    with server(command, port, folder / "chromedriver.log", stack.environment(), folder):
        browser = Browser(f"http://{LOOPBACK}:{port}", binary, folder / "profile")
        try:
            yield browser
        finally:
            browser.end()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


Show = Callable[..., Browser]


@pytest.fixture
def show(window: Browser, tmp_path: Path) -> Iterator[Show]:
    """Opens a report, and holds in the end that the page asked nobody for anything and that no script complained."""
    path = tmp_path / "report.html"
    window.log("browser")
    window.log("performance")

    def show(report: object = SAMPLE, hash: str = "") -> Browser:
        path.write_text(filled(report))
        window.resize(1280)
        window.open(path, hash)
        return window

    yield show
    assert window.log("browser") == []
    assert window.run("return performance.getEntriesByType('resource').map(one => one.name)") == []
    messages = [json.loads(entry["message"])["message"] for entry in window.log("performance")]
    urls = {
        message["params"]["request"]["url"].partition("#")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    # The browser's own first tab is made of what it holds itself.
    asked = {url for url in urls if not url.startswith(("about:", "chrome", "data:"))}
    assert asked == {path.as_uri()}


def of(standing: str) -> list[str]:
    return [row["instance-id"] for row in SAMPLE["instances"] if row["standing"] == standing]


def with_rows(rows: list[dict[str, Any]], **counts: int) -> dict[str, Any]:
    """A report of these instances and nothing else."""
    none = dict.fromkeys(SAMPLE["counts"], 0)
    empty = {"blocked": {}, "left": {}, "failed": {}, "bare-sources": []}
    return {
        **SAMPLE,
        **empty,
        "instances": rows,
        "counts": none | {"instances": len(rows)} | counts,
    }


# Without a browser.


def test_the_page_has_one_place_for_the_data_and_names_nobody_else() -> None:
    page = PAGE.read_text()
    assert page.count(PLACEHOLDER) == 1
    assert f'<script type="application/json" id="data">{PLACEHOLDER}</script>' in page
    assert not re.search(
        r"https?:|//[a-z0-9-]+\.|@import|url\(|<(iframe|object|embed|base)\b", page
    )
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", page)


def test_the_page_runs_nothing_but_its_own_script() -> None:
    page = PAGE.read_text()
    for kind in ("script", "style"):
        (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        wanted = f"{kind}-src 'sha256-{digest}';"
        assert wanted in page, f"the {kind} was changed: write {wanted} into the page's policy"


def test_the_sample_counts_what_it_holds() -> None:
    counts = {"right": "right", "wrong": "change"} | {
        word: word for word in ("blocked", "left", "failed", "waiting")
    }
    assert {word: len(of(standing)) for word, standing in counts.items()} == {
        word: SAMPLE["counts"][word] for word in counts
    }
    assert sum(row["stuck"] for row in SAMPLE["instances"]) == SAMPLE["counts"]["stuck"]
    assert len(SAMPLE["instances"]) == SAMPLE["counts"]["instances"]


# In the browser.


def test_the_first_glance(show: Show) -> None:
    page = show()
    assert page.text("#verdict") == "16 of 60 instances are not right."
    assert page.text("#further").startswith(
        "8 would be changed, 7 are blocked, 1 failed, 1 is stuck, 1 waits"
    )
    assert page.run("return document.title").startswith("16 of 60 instances are not right")
    about = page.text("#about")
    for said in ("eu-west-1", "123456789012", "policy.yaml", "web-*,app/*", "2026-11-21 18:00 UTC"):
        assert said in about
    assert page.texts("#legend button") == [
        "40 right",
        "8 would be changed",
        "7 blocked",
        "1 failed",
        "1 stuck",
        "1 waiting",
        "3 left alone",
    ]
    widths = page.run(
        "return [...document.querySelectorAll('#bar span')].map(one => one.offsetWidth)"
    )
    assert len(widths) == 6 and widths[0] / sum(widths) == pytest.approx(40 / 60, abs=0.02)
    headings = page.texts("main h2")
    assert headings == [
        "Would be changed",
        "Failed",
        "Stuck",
        "Blocked",
        "Who comes up bare",
        "Left alone",
        "All instances",
    ]
    blocked = page.texts("[aria-labelledby=heading-blocked] .what")
    assert blocked == [
        "not-allowed",
        "role-does-not-trust-ec2",
        "invalid-profile",
        "profile-unknown",
    ]
    assert page.texts("[aria-labelledby=heading-source] .what") == [
        entry["source"] for entry in SAMPLE["bare-sources"]
    ]
    assert page.text("#found") == "60 instances"
    assert len(page.column("instance")) == 60
    # What takes something away comes first, what is right last.
    assert page.column("standing")[:2] == ["▸would remove", "▸would swap"]
    assert page.column("standing")[-1] == "▸right"


def test_each_column_sorts_both_ways(show: Show) -> None:
    page = show()
    keys = page.run(
        "return [...document.querySelectorAll('thead th')].map(one => one.className.slice(2))"
    )
    assert len(keys) == 9
    for key in keys:
        # The first is sorted by already, upwards.
        for direction in ("descending",) if key == "standing" else ("ascending", "descending"):
            page.click(f"th.c-{key} button")
            sorts = page.run(
                "return [...document.querySelectorAll('[aria-sort]')].map(one => [one.className, one.ariaSort])"
            )
            assert sorts == [[f"c-{key}", direction]]
        column = page.column(key)
        some = [value for value in column if value not in ("–", "nothing")]
        assert len(column) == 60 and column[: len(some)] == some, "what is empty comes last"
    page.click("th.c-name button")
    names = [name for name in page.column("name") if name != "–"]
    assert names.index("web-2") < names.index("web-10"), "numbers count as numbers"
    page.click("th.c-name button")
    assert [name for name in page.column("name") if name != "–"] == names[::-1]
    # By keyboard: the button has the focus.
    page.press(ENTER)
    assert [name for name in page.column("name") if name != "–"] == names


def test_the_search_looks_at_everything(show: Show) -> None:
    page = show()
    row = SAMPLE["instances"][0]
    page.press("/")
    page.press("x")
    assert page.run("return document.activeElement.id + document.activeElement.value") == "searchx"
    for words, expected in {
        row["instance-id"]: 1,
        "LEGACY-ftp": 1,
        "lifecycle=retired": 1,
        "arn:aws:iam::123456789012:instance-profile/app/etl": 2,
        "role-does-not-trust": 2,
        "not authorized to perform": 1,
        "profilenotfound": 1,
        "SSO_Admin": 1,
        "staging stopped": 3,
        "no such thing": 0,
    }.items():
        page.clear("#search")
        page.type("#search", words)
        assert len(page.column("instance")) == expected, words
    assert page.text("#nobody") == "No instance matches."
    page.click("#active button", "search:")
    assert len(page.column("instance")) == 60


def test_standings_filter_alone_and_together(show: Show) -> None:
    page = show()
    page.click("#legend button", "7 blocked")
    assert sorted(page.column("instance")) == sorted(of("blocked"))
    page.click("#chips button", "Failed")
    assert sorted(page.column("instance")) == sorted(of("blocked") + of("failed"))
    assert page.text("#found") == "8 of 60 instances"
    # The chip that was clicked has the focus still.
    assert page.run("return document.activeElement.textContent") == "Failed 1"
    page.click("#chips button", "Blocked")
    assert page.column("instance") == of("failed")
    page.click("#chips button", "Failed")
    page.click("#chips button", "Stuck")
    assert page.column("name") == ["mailer-1"]
    page.click("#chips button", "All")
    assert len(page.column("instance")) == 60
    page.type("#search", "web-prod")
    chips = page.texts("#chips button")
    assert chips[:3] == ["All 17", "Right 11", "Would be changed 5"]


@pytest.mark.parametrize(
    ("card", "entry", "number"),
    [
        ("change", "associate: nothing → web-prod", 3),
        ("blocked", "not-allowed", 3),
        ("failed", "Denied", 1),
        ("stuck", "association-stuck", 1),
        ("left", "unmanaged", 2),
        ("source", "auto-scaling-group web-asg", 5),
    ],
)
def test_what_a_card_counts_is_what_it_shows(
    show: Show, card: str, entry: str, number: int
) -> None:
    page = show()
    # Filters from before hide nothing of what the card counts.
    page.type("#search", "no such thing")
    page.click("#chips button", "Right")
    button = f"[aria-labelledby=heading-{card}] .facets button"
    page.click(button, entry)
    assert len(page.column("instance")) == number
    assert page.text("#found") == f"{number} of 60 instances"
    assert page.run("return document.querySelectorAll('.facets [aria-pressed=true]').length") == 1
    assert page.run(
        "return document.getElementById('all').getBoundingClientRect().top < innerHeight"
    )
    page.click(button, entry)
    assert len(page.column("instance")) == 60


def test_a_long_card_lists_the_first_and_shows_all_when_asked(show: Show) -> None:
    sources = [{"source": f"auto-scaling-group {n}", "count": 40 - n} for n in range(20)]
    page = show({**SAMPLE, "bare-sources": sources})
    entries = "[aria-labelledby=heading-source] .what"
    assert page.texts(entries) == [entry["source"] for entry in sources[:8]]
    page.click("#cards .more", "Show all 20")
    assert page.texts(entries) == [entry["source"] for entry in sources]
    assert page.run("return document.activeElement.textContent").startswith("auto-scaling-group 8")


def test_a_row_opens_to_all_that_is_known(show: Show) -> None:
    page = show()
    page.click("#legend button", "1 failed")
    page.click(".opener")
    details = page.text("tr.details")
    row = next(row for row in SAMPLE["instances"] if row["standing"] == "failed")
    for said in (
        "the instance requires app/ledger, which IAM must show first",
        f"Denied: {row['error']['message']} (a person must act)",
        row["attached"],
        row["rule"],
        row["account"],
        "Environment",
        "prod",
    ):
        assert said in details
    opened = "return document.querySelector('.opener').ariaExpanded"
    assert page.run(opened) == "true"
    # By keyboard: the button has the focus.
    page.press(ENTER)
    assert page.run(opened) == "false"
    assert page.texts("tr.details") == []
    # By a click on the row, and what is open stays open while the filters change.
    page.click("#rows td.c-name")
    page.click("#chips button", "All")
    assert len(page.texts("tr.details")) == 1
    cell = page.run(
        "const cell = document.querySelector('#rows td.c-attached span'); return [cell.textContent, cell.title]"
    )
    assert cell == ["web-old", "arn:aws:iam::123456789012:instance-profile/web-old"]


def test_the_address_keeps_the_view(show: Show) -> None:
    page = show()
    page.click("[aria-labelledby=heading-blocked] .facets button", "not-allowed")
    page.type("#search", "jump")
    page.click("th.c-name button")
    page.click("th.c-name button")
    deadline = time.monotonic() + 5
    while "sort" not in (hash := page.run("return location.hash")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert page.column("name") == ["jump-2", "jump-1"]
    show(hash=hash)
    assert page.column("name") == ["jump-2", "jump-1"]
    assert page.texts("#active button") == [
        "blocked: not-allowed ×",
        "search: jump ×",
        "all filters ×",
    ]
    page.click("#active button", "all filters")
    assert len(page.column("instance")) == 60
    # An address that makes no sense shows everything.
    show(hash="#standing=x&sort=-y&source=&z=%E0%A4%A")
    assert len(page.column("instance")) == 60


def test_hostile_texts_are_only_texts(show: Show) -> None:
    rows = []
    for text in HOSTILE:
        row = copy.deepcopy(SAMPLE["instances"][0])
        row |= dict.fromkeys(
            ("name", "rule", "launch-source", "reason", "attached", "required", "state"), text
        )
        row |= {
            "tags": {text: text, "__proto__": "x"},
            "error": {"type": text, "message": text, "disposition": text},
        }
        rows.append(row)
    report = with_rows(rows, wrong=len(rows))
    report |= {"bare-sources": [{"source": text, "count": 1} for text in HOSTILE]}
    report |= {
        "policy": HOSTILE[0],
        "allowed": HOSTILE[1],
        "blocked": {HOSTILE[1]: 1, "constructor": 1},
    }
    page = show(report)
    page.click("th.c-name button")
    assert sorted(page.column("name")) == sorted(HOSTILE)
    for index, text in enumerate(HOSTILE):
        page.run("document.querySelectorAll('#rows .opener')[arguments[0]].click()", index)
    tags = page.texts("tr.details .tags dt")
    assert sorted(tags) == sorted([*HOSTILE, *["__proto__"] * len(HOSTILE)])
    assert sorted(page.texts("[aria-labelledby=heading-source] .what")) == sorted(HOSTILE)
    assert HOSTILE[0] in page.texts("#about")[0]
    page.click("[aria-labelledby=heading-source] .facets button", HOSTILE[1])
    assert page.texts("#active button") == [f"launched by: {HOSTILE[1]} ×"]
    assert page.column("name") == [HOSTILE[1]]
    assert page.run("return [typeof hit, document.querySelectorAll('img, svg').length]") == [
        "undefined",
        0,
    ]


def test_an_injected_script_would_not_run(window: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(filled(SAMPLE))
    page = window
    page.open(path)
    page.log("browser")
    # The driver's own scripts stand outside of the page's policy; an element that they add stands under it.
    page.run(
        "const script = document.createElement('script');"
        "try { script.textContent = 'window.hit = 1'; } catch { script.append('window.hit = 1'); }"
        "document.body.append(script);"
        "const image = document.createElement('img');"
        "image.setAttribute('src', 'image.png');"
        "document.body.append(image);"
    )
    assert page.run("return typeof hit") == "undefined"
    refused = [entry["message"] for entry in page.log("browser")]
    assert any("script" in message for message in refused), refused
    assert any("image.png" in message for message in refused), refused


def test_no_instances(show: Show) -> None:
    page = show(with_rows([]))
    assert page.text("#verdict") == "There are no instances here."
    assert not page.run("return document.getElementById('main').checkVisibility()")


def test_a_fleet_that_is_right(show: Show) -> None:
    rows = [row for row in SAMPLE["instances"] if row["standing"] == "right" and not row["stuck"]]
    page = show(with_rows(rows, right=len(rows)))
    assert page.text("#verdict") == f"All {len(rows)} instances are right."
    assert page.texts("main h2") == ["All instances"]
    left = [row for row in SAMPLE["instances"] if row["standing"] == "left"]
    show(with_rows(rows + left, right=len(rows), left=len(left)))
    assert page.text("#verdict") == "Nothing is wrong."
    assert page.text("#further") == f"{len(rows)} instances are right and 3 are left alone."


def test_a_report_that_cannot_be_read_says_so(window: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(PAGE.read_text())
    window.open(path)
    assert window.text("#verdict") == "The report in this page cannot be read."


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 800, 390])
def test_everything_fits_and_can_be_read(show: Show, width: int, dark: bool) -> None:
    rows = copy.deepcopy(SAMPLE["instances"])
    rows[0] |= {"name": "n" * 200, "launch-source": "principal " + "x" * 300}
    report = {**SAMPLE, "instances": rows, "allowed": "web-*," * 80}
    report |= {
        "bare-sources": [*SAMPLE["bare-sources"], {"source": "principal " + "x" * 300, "count": 1}]
    }
    page = show(report)
    page.resize(width, dark=dark)
    page.run(
        "for (const opener of [...document.querySelectorAll('.opener')].slice(0, 20)) opener.click()"
    )
    assert page.run("return document.documentElement.scrollWidth") <= width
    # A cell's text stays in its cell.
    spills = (
        "return [...document.querySelectorAll('th, td')]"
        ".filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
    )
    assert page.run(spills) == []
    contrast, text = page.run(CONTRAST)
    assert contrast >= 4.5, text


def test_20_000_instances_are_searched_at_once(show: Show) -> None:
    rows = []
    for number in range(20_000):
        row = dict(SAMPLE["instances"][number % 60])
        row |= {"instance-id": f"i-{number:017x}", "name": f"{row['name']}-{number}"}
        rows.append(row)
    counts = {word: 0 for word in SAMPLE["counts"]} | {"right": 20_000}
    page = show(with_rows(rows, **counts | {"instances": 20_000}))
    assert page.text("#found") == "20,000 instances, the first 200 shown"
    assert len(page.column("instance")) == 200
    # From the key to the rows laid out.
    timed = """
        const began = performance.now();
        const [action, value] = arguments;
        if (action === "search") {
          const search = document.getElementById("search");
          search.value = value;
          search.dispatchEvent(new InputEvent("input"));
        } else document.querySelector(value).click();
        document.body.offsetHeight;
        return performance.now() - began;
    """
    times = {
        "search": page.run(timed, "search", "web-19999"),
        "search for most": page.run(timed, "search", "i-0"),
        "sort": page.run(timed, "click", "th.c-name button"),
    }
    assert all(taken < 2_000 for taken in times.values()), times
    page.run(timed, "search", "-12345")
    assert page.column("instance") == [f"i-{12345:017x}"]
    page.run(timed, "search", "")
    page.click("#more")
    assert len(page.column("instance")) == 400
    assert page.text("#found") == "20,000 instances, the first 400 shown"
