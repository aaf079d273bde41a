"""`make demo`: builds the function, deploys it to an emulated cloud, shows what it does there."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from demo import decisions, fleet, stack
from demo.console import Failure, fail, say, step, table
from demo.decisions import Decision
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
        cases = fleet.launch(cloud, fleet.CASES)
    with step("Deploying template.yaml with `sam deploy`"):
        deployed = stack.deploy(cloud, _parameters(cloud), scratch)
    problems = _events(deployed, cases)
    with step("Launching 3 more instances, of which no event tells"):
        missed = fleet.launch(cloud, fleet.MISSED)
    problems += _sweep(deployed, missed)
    problems += _sweep_as_dry_run(deployed, len(cases) + len(missed))
    return problems + _report(cloud, [*cases, *missed], scratch)


def _events(deployed: stack.Stack, cases: Mapping[str, Case]) -> list[str]:
    """Each instance is brought right by the event that tells of it."""
    before = fleet.profiles_of(deployed.cloud)
    with step(f"Sending {len(cases)} sample events through the queue, and waiting for the work"):
        deployed.send(
            [
                fleet.sample_event(case.event, id, case.tags)
                for id, case in cases.items()
                if case.event
            ]
        )
        found = decisions.wait_for(deployed, cases.keys())
    say(f"\nThe policy, {fleet.POLICY.relative_to(stack.ROOT)}, says:\n\n{_policy()}\n")
    return _outcome(deployed, cases, before, found)


def _sweep(deployed: stack.Stack, missed: Mapping[str, Case]) -> list[str]:
    """Instances of which no event tells are found by the next sweep."""
    before = fleet.profiles_of(deployed.cloud)
    payload = deployed.scheduled()
    text = json.dumps(payload)
    with step(f"Invoking SweepFunction with the schedule's {text}, and waiting until the queue is empty"):
        deployed.begin_sweep(payload)
        decisions.wait_for_sweep(deployed)
        found = decisions.wait_for(deployed, missed.keys())
    sweeps = decisions.sweeps(deployed)
    problems = []
    for sweep in sweeps:
        sources = [f"{source} ({count})" for source, count in sweep.bare_sources.items()]
        say(f"\nThe log says: {sweep.message}\nLaunched bare by {', '.join(sources)}\n")
        if (sweep.wrong, sweep.blocked, len(sources)) != (2, 2, 1):
            problems.append(f"    the sweep should find 2 wrong, 2 blocked, 1 source: {sweep}")
    if len(sweeps) != 1:
        problems.append(f"    there should be one sweep: {sweeps}")
    return problems + _outcome(deployed, missed, before, found)


def _sweep_as_dry_run(deployed: stack.Stack, instances: int) -> list[str]:
    """Then there is nothing to do, but for a person."""
    payload = {"sweep": {}, "dry-run": True}
    with step(f"Sweeping once more, by a person's invocation with {json.dumps(payload)}"):
        found = deployed.sweep(payload)["sweep"]
    left, waiting = sum(found["left"].values()), found["waiting"]
    blocked = " ".join(f"{count} blocked ({why})" for why, count in found["blocked"].items())
    say(
        f"\nIt answers: {found['instances']} instances, {found['right']} right, "
        f"{found['wrong']} to be changed, {blocked}, {waiting} waiting, {left} left alone\n"
    )
    expected = {
        **{"completed": True, "instances": instances, "wrong": 0, "waiting": 1},
        **{"right": instances - left - waiting - 2},
        **{"blocked": {"not-allowed": 2}, "failed": {}, "stuck": 0},
    }
    return [
        f"    dry run: {what} should be {wanted} and is {found.get(what)}"
        for what, wanted in expected.items()
        if found.get(what) != wanted
    ]


def _report(cloud: stack.Cloud, ids: Sequence[str], scratch: Path) -> list[str]:
    """The same from outside, as a person would look."""
    # Last, so that nobody waits for it who came for the rest.
    with step("Building the command-line tool (the first time about four minutes)"):
        tool = stack.build_tool()
    stack.REPORT.unlink(missing_ok=True)
    with step("Running its report, which looks for itself"):
        command, printed = stack.report(tool, cloud, fleet.POLICY, fleet.ALLOWED_PROFILES, scratch)
    say(f"\n$ {command}\n\n{printed.strip()}")
    page = stack.REPORT.read_text()
    return [f"    the report's page lacks {id}" for id in ids if id not in page]


def _outcome(
    deployed: stack.Stack,
    cases: Mapping[str, Case],
    before: Mapping[str, str],
    found: Mapping[str, Decision],
) -> list[str]:
    """Shows what became of each instance; answers where that is not what must."""
    after = fleet.profiles_of(deployed.cloud)
    results = {
        instance: Result(after.get(instance), line.decision, line.rule, line.reason)
        for instance, line in found.items()
    }
    say(f"{_table(cases, before, results)}\n")
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
