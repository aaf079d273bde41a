"""Starting programs so that none outlives us: each in a group of its own, ended as a whole."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from demo.console import Failure

LOOPBACK = "127.0.0.1"

# An emulator is up in under a second; a loaded machine gets twenty times that and more.
START_SECONDS = 30
# How long a group has to end by itself before it is killed.
STOP_SECONDS = 3


def free_port() -> int:
    """A port on loopback that is free now."""
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, 0))
        except OSError as error:
            raise Failure(f"no free port on {LOOPBACK}: {error}") from error
        return int(probe.getsockname()[1])


def run(
    command: Sequence[str],
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    good: Collection[int] = (0,),
) -> None:
    """Runs a command to its end, its output in a log whose last lines are shown when it fails."""
    with log.open("wb") as output, _group(command, output, env, cwd) as process:
        status = process.wait()
    if status not in good:
        raise Failure(f"`{' '.join(command)}` ended with status {status}:\n{tail(log)}")


@contextmanager
def server(
    command: Sequence[str], port: int, log: Path, env: Mapping[str, str], cwd: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server on loopback for as long as the block lasts, which starts when it answers."""
    with log.open("wb") as output, _group(command, output, env, cwd) as process:
        _wait_for_port(process, port, log)
        yield process


def tail(log: Path, lines: int = 40) -> str:
    """The last lines of a log, indented."""
    text = log.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join(f"    {line}" for line in text)


@contextmanager
def _group(
    command: Sequence[str], output: object, env: Mapping[str, str], cwd: Path
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(  # type: ignore[call-overload]
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Failure(f"`{command[0]}` was not found") from None
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the whole group, the functions that an emulator may leave behind included."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failure(f"the server for port {port} ended at once:\n{tail(log)}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.05)
    raise Failure(f"nothing answered on port {port} for {START_SECONDS} s:\n{tail(log)}")
