"""What the tests share. Servers are on free ports of loopback and end with their fixtures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from account import Account
from demo import stack
from demo.processes import LOOPBACK, free_port, server
from runtime import Function, running

# No test may see, let alone use, the settings and credentials of the person who runs it.
_environment = stack.environment()
os.environ.clear()
os.environ.update(_environment)


@pytest.fixture(scope="session")
def binary() -> Path:
    """The function's binary: the one BOOTSTRAP_BINARY names, or the one the demo deploys."""
    named = os.environ.get("BOOTSTRAP_BINARY")
    if named:
        return Path(named).resolve()
    stack.build()
    return stack.BINARY


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A moto server; answers its URL."""
    port, folder = free_port(), tmp_path_factory.mktemp("moto")
    command = ["moto_server", "--host", LOOPBACK, "--port", str(port)]
    with server(command, port, folder / "moto.log", stack.environment(), folder):
        yield f"http://{LOOPBACK}:{port}"


@pytest.fixture
def account(moto: str) -> Account:
    """An account as good as new, with the profiles web, web-old, admin and /app/batch."""
    requests.post(f"{moto}/moto-api/reset", timeout=30).raise_for_status()
    account = Account(moto)
    for name, path in {"web": "/", "web-old": "/", "admin": "/", "batch": "/app/"}.items():
        account.make_profile(name, path)
    return account


@pytest.fixture
def start(moto: str, binary: Path, tmp_path: Path) -> Iterator[Callable[..., Function]]:
    """Starts the function under Lambda's runtime emulator, with moto for AWS and these settings."""
    with ExitStack() as functions:
        yield lambda **settings: functions.enter_context(running(binary, moto, settings, tmp_path))
