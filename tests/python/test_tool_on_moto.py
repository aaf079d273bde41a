"""End to end: the command-line tool as a person runs it, with moto for EC2 and IAM."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from account import Account
from demo import stack

POLICY = """
version: 1
rules:
  - name: named-by-tag
    match: { tags: { InstanceProfile: "?*" } }
    profile: "${tag:InstanceProfile}"
  - name: retired
    match: { tags: { Lifecycle: retired } }
    profile: none
  - name: baseline
    match: { tags: { Team: "*" } }
    profile: batch
    when-different: keep
"""

Tool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tool_binary() -> Path:
    """The tool that TOOL_BINARY names, or the one that the Rust tests build."""
    named = os.environ.get("TOOL_BINARY")
    if named:
        return Path(named).resolve()
    cargo = ["cargo", "test", "--locked", "--features", "cli", "--test", "cli", "--no-run"]
    subprocess.run(cargo, cwd=stack.ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", stack.ROOT / "target"))
    return target / "debug" / "auto-instance-profile"


@pytest.fixture
def tool(tool_binary: Path, moto: str, tmp_path: Path) -> Tool:
    """Runs a command of the tool on the policy above."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    environment = {**os.environ, "AWS_ENDPOINT_URL": moto, "AWS_REGION": stack.REGION}

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tool_binary, command, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )

    return run


def test_a_plan_is_applied_and_then_there_is_nothing_to_do(account: Account, tool: Tool) -> None:
    bare = account.launch(tag="web")
    wrong = account.launch(tag="web", profile="web-old")
    stopped = account.launch(tag="web", profile="web-old")
    account.stop(stopped)
    retired = account.launch(tags={"Lifecycle": "retired"}, profile="web-old")
    gap = account.launch(tags={"Team": "x"})
    kept = account.launch(tags={"Team": "x"}, profile="web-old")
    forbidden = account.launch(tag="admin", profile="web-old")
    options = ("policy.yaml", "--allowed", "web,app/*")

    planned = tool("plan", *options, "--json")
    assert planned.returncode == 2, planned.stderr
    plan = {row["instance-id"]: row for row in json.loads(planned.stdout)["instances"]}
    decisions = {name: plan[name]["decision"] for name in plan}
    assert decisions == {
        bare: "associate",
        wrong: "replace",
        stopped: "swap",
        retired: "remove",
        gap: "associate",
        kept: "leave",
        forbidden: "leave",
    }
    assert account.profile_of(bare) is None, "a plan writes nothing"

    refused = tool("apply", *options)
    assert refused.returncode == 1 and "--yes" in refused.stderr
    assert account.profile_of(bare) is None, "nobody said yes"

    applied = tool("apply", *options, "--yes", "--writes-per-second", "50")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    profiles = [bare, wrong, stopped, retired, gap, kept, forbidden]
    assert [account.profile_of(name) for name in profiles] == [
        "web",
        "web",
        "web",
        None,
        "app/batch",
        "web-old",
        "web-old",
    ]
    again = tool("plan", *options)
    assert again.returncode == 0, again.stdout


def test_a_real_instance_is_explained(account: Account, tool: Tool) -> None:
    instance = account.launch(tag="web", profile="web-old")
    explained = tool("explain", instance, "--policy", "policy.yaml", "--allowed", "web,app/*")
    assert explained.returncode == 0, explained.stderr
    assert "named-by-tag" in explained.stdout and "replace" in explained.stdout
    assert account.profile_of(instance) == "web-old"
