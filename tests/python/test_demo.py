"""End to end: the demo, which deploys the template to ministack and checks what comes of events."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo import stack
from test_report_page import chromium
from test_tool_on_moto import tool_binary

DEMO = [sys.executable, "-m", "demo"]


def remains() -> list[Path]:
    """The scratch folders of demos that are not running any more."""
    return sorted(stack.STATE.glob("run-*"))


@pytest.fixture(scope="module")
def environment(binary: Path, tool_binary: Path) -> dict[str, str]:
    """That of a demo which finds everything built."""
    return {**os.environ, "TOOL_BINARY": str(tool_binary)}


@pytest.fixture(scope="module")
def told(environment: dict[str, str]) -> str:
    """What a demo says that runs to its end."""
    stack.REPORT.unlink(missing_ok=True)
    ended = subprocess.run(
        DEMO, cwd=stack.ROOT, env=environment, capture_output=True, text=True, timeout=1_500
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert remains() == []
    return ended.stdout


def test_the_demo_ends_with_every_instance_as_expected(told: str) -> None:
    assert "Every instance is as expected" in told


def test_the_demo_s_sweep_finds_what_no_event_told(told: str) -> None:
    assert '"sweep": {}, "scheduled": true' in told
    assert "sweep completed: 15 instances" in told
    assert "2 to be changed, 2 blocked" in told
    assert "Launched bare by auto-scaling-group web-asg (1)" in told
    assert "It answers: 15 instances, 10 right, 0 to be changed, 2 blocked (not-allowed), 1 waiting" in told


def test_the_demo_s_report_is_a_page_that_opens(told: str, tmp_path: Path) -> None:
    said = "2 of 15 instances are not right."
    assert said in told and str(stack.REPORT) in told
    with chromium(tmp_path) as window:
        window.open(stack.REPORT)
        assert window.text("#verdict") == said
        assert window.run("return document.title").startswith("2 of 15")
        assert {"10 right", "2 blocked", "2 left alone"} <= set(window.texts("#legend button"))
        assert window.log("browser") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_cleans_up(
    environment: dict[str, str], number: signal.Signals
) -> None:
    with subprocess.Popen(
        DEMO, cwd=stack.ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "sam deploy" in line:
                break
        time.sleep(1)
        children = _processes_below(demo.pid)
        demo.send_signal(number)
        demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert remains() == []
    assert len(children) >= 2, "an emulator and a deployment should have been running"
    assert [child for child in children if _is_running(child)] == []


def _processes_below(pid: int) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [grandchild for child in found for grandchild in _processes_below(child)]


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
