"""End to end: the demo, which deploys the template to ministack and checks what comes of events."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo import stack

DEMO = [sys.executable, "-m", "demo"]


def remains() -> list[Path]:
    """The scratch folders of demos that are not running any more."""
    return sorted(stack.STATE.glob("run-*"))


@pytest.mark.usefixtures("binary")
def test_the_demo_ends_with_every_instance_as_expected() -> None:
    ended = subprocess.run(DEMO, cwd=stack.ROOT, capture_output=True, text=True, timeout=1_500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Every instance is as expected" in ended.stdout
    assert remains() == []


@pytest.mark.usefixtures("binary")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_cleans_up(number: signal.Signals) -> None:
    with subprocess.Popen(DEMO, cwd=stack.ROOT, stdout=subprocess.PIPE, text=True) as demo:
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
