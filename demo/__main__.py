"""`make demo`: builds the function, deploys it to an emulated cloud, shows what it does there."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from demo import decisions, fleet, stack
from demo.console import Failure, fail, say, step, table
from demo.fleet import Case, Result

# What a shell answers for a program that Ctrl-C ended.
INTERRUPTED = 130

HEADER = ["instance", "case", "before", "tags", "after", "decision", "rule", "reason"]


def main() -> int:
    """Runs the demo; answers the process's exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # As Ctrl-C: an exception, so that every `with` cleans up on the way out.
        signal.signal(number, _interrupt)
    started = time.monotonic()
    try:
        _check_prerequisites()
        problems = _demonstrate()
    except Failure as problem:
        return fail(problem)
    except KeyboardInterrupt:
        fail(Failure("stopped; everything it started is gone"))
        return INTERRUPTED
    if problems:
        return fail(Failure("the result is not the expected one:\n" + "\n".join(problems)))
    say(f"\nEvery instance is as expected. {time.monotonic() - started:.0f} s in all.")
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _check_prerequisites() -> None:
    for tool in ("cargo", "rustc"):
        if shutil.which(tool) is None:
            raise Failure(f"`{tool}` was not found. Install Rust: https://rustup.rs is one way.")
    if shutil.which("cc") is None:
        raise Failure("`cc` was not found. Rust links with it: install gcc or clang.")


def _demonstrate() -> list[str]:
    with step("Building the function with `sam build` (the first time about five minutes)"):
        stack.build()
    with ExitStack() as running:
        folder = tempfile.TemporaryDirectory(prefix="run-", dir=stack.STATE)
        scratch = Path(running.enter_context(folder))
        with step("Starting the emulated cloud, ministack"):
            cloud = running.enter_context(stack.emulator(scratch))
        return _on(cloud, scratch)


def _on(cloud: stack.Cloud, scratch: Path) -> list[str]:
    with step("Making instance profiles and instances"):
        fleet.make_profiles(cloud)
        cases = fleet.launch(cloud)
    with step("Deploying template.yaml with `sam deploy`"):
        deployed = stack.deploy(cloud, _parameters(cloud), scratch)
    before = fleet.profiles_of(cloud)
    with step(f"Sending {len(cases)} sample events through the queue, and waiting for the work"):
        deployed.send([fleet.sample_event(case.event, id) for id, case in cases.items()])
        found = decisions.wait_for(deployed, cases.keys())
    after = fleet.profiles_of(cloud)
    results = {
        instance: Result(after.get(instance), line.decision, line.rule, line.reason)
        for instance, line in found.items()
    }
    say(f"\nThe policy, {fleet.POLICY.relative_to(stack.ROOT)}, says:\n\n{_policy()}")
    say("\n" + _table(cases, before, results))
    return [
        problem
        for instance, case in cases.items()
        for problem in _problems(case, before.get(instance), results[instance])
    ]


def _parameters(cloud: stack.Cloud) -> Mapping[str, str]:
    roles = [f"arn:aws:iam::{stack.ACCOUNT}:role/{name}" for name in fleet.PASSABLE_ROLES]
    return {
        "Mode": "enforce",
        # Where it lies: the emulator mounts no layers, so nothing would be at /opt/policy.yaml.
        "PolicyFile": str(fleet.POLICY),
        "AllowedProfiles": fleet.ALLOWED_PROFILES,
        "PassableRoles": ",".join(roles),
        "Architecture": stack.ARCHITECTURE,
        "EndpointUrl": cloud.endpoint,
    }


def _policy() -> str:
    """The policy's text without its comments."""
    lines = fleet.POLICY.read_text().splitlines()
    return "\n".join(f"    {line}" for line in lines if line and not line.lstrip().startswith("#"))


def _table(
    cases: Mapping[str, Case], before: Mapping[str, str], results: Mapping[str, Result]
) -> str:
    rows = [
        [
            *[instance, case.name, before.get(instance, "-")],
            " ".join(f"{key}={value}" for key, value in case.tags.items()) or "-",
            *[result.after or "-", result.decision, result.rule or "-", result.reason],
        ]
        for (instance, case), result in ((item, results[item[0]]) for item in cases.items())
    ]
    return table(HEADER, rows)


def _problems(case: Case, before: str | None, result: Result) -> list[str]:
    compared = {"profile before": (case.before, before)} | {
        what: (getattr(case.result, what), getattr(result, what))
        for what in ("after", "decision", "rule", "reason")
    }
    return [
        f"    {case.name}: {what} should be {expected or 'none'} and is {actual or 'none'}"
        for what, (expected, actual) in compared.items()
        if expected != actual
    ]


if __name__ == "__main__":
    sys.exit(main())
