"""The built binary under AWS's own Lambda runtime emulator, which comes with the SAM CLI."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import requests

from demo import stack
from demo.processes import LOOPBACK, free_port, server

_MACHINE = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
_SAM_CLI = find_spec("samcli")
assert _SAM_CLI is not None and _SAM_CLI.origin is not None
EMULATOR = Path(_SAM_CLI.origin).parent / "local" / "rapid" / f"aws-lambda-rie-{_MACHINE}"


@dataclass(frozen=True)
class Function:
    """A running function."""

    url: str
    log_file: Path

    def invoke(self, event: Any) -> Any:
        """Invokes it with an event and answers what it answered."""
        return self.invoke_raw(json.dumps(event))

    def invoke_raw(self, payload: str) -> Any:
        """Invokes it with these very bytes."""
        return requests.post(self.url, data=payload.encode(), timeout=60).json()

    def log(self) -> list[dict[str, Any]]:
        """The lines that the function wrote, without the emulator's own."""
        lines = self.log_file.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"timestamp"')]


@contextmanager
def running(
    binary: Path, endpoint: str, settings: Mapping[str, str], folder: Path
) -> Iterator[Function]:
    """Runs the function with these settings, against the AWS that is at the endpoint."""
    port, runtime_port = free_port(), free_port()
    env = stack.environment() | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_LAMBDA_FUNCTION_NAME": "auto-instance-profile",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": "60",
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "ALLOWED_PROFILES": "web,app/*",
        **settings,
    }
    command = [
        *[str(EMULATOR), "--runtime-interface-emulator-address", f"{LOOPBACK}:{port}"],
        *["--runtime-api-address", f"{LOOPBACK}:{runtime_port}", str(binary)],
    ]
    log = folder / f"function-{port}.log"
    with server(command, port, log, env, folder):
        path = "2015-03-31/functions/function/invocations"
        yield Function(f"http://{LOOPBACK}:{port}/{path}", log)
