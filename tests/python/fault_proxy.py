"""A proxy on loopback between the function and an emulator, which has one call or another fail in transit."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from demo.processes import LOOPBACK

# What is said about a connection rather than about what goes over it.
HOP_BY_HOP = {"connection", "content-length", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True)
class Fault:
    """What happens to a call: it is delayed, then forwarded or not, then answered or not."""

    delay: float = 0
    #: The call reaches the emulator.
    forwards: bool = True
    #: AWS's status and code in the place of the emulator's answer.
    refuses: tuple[int, str] | None = None
    #: The connection is reset in the place of an answer.
    resets: bool = False
    #: Called once the emulator has answered, before the function hears of it.
    before_answer: Callable[[], None] | None = None


RESET_BEFORE = Fault(forwards=False, resets=True)
RESET_AFTER = Fault(resets=True)
SERVER_ERROR = Fault(forwards=False, refuses=(500, "InternalError"))
THROTTLED = Fault(forwards=False, refuses=(503, "RequestLimitExceeded"))


@dataclass
class FaultProxy:
    """Where the proxy is, what it has seen, and what is to fail."""

    url: str
    _emulator: str
    #: Calls that arrived, and those of them that the emulator carried out.
    seen: Counter[str] = field(default_factory=Counter)
    carried_out: Counter[str] = field(default_factory=Counter)
    _planned: dict[str, list[Fault]] = field(default_factory=dict)
    _for_good: dict[str, Fault] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def once(self, action: str, fault: Fault) -> None:
        """The next such call meets this fault."""
        with self._lock:
            self._planned.setdefault(action, []).append(fault)

    def always(self, action: str, fault: Fault) -> None:
        """Each such call meets this fault, until all is mended."""
        with self._lock:
            self._for_good[action] = fault

    def mend(self) -> None:
        """Nothing fails from now on."""
        with self._lock:
            self._planned.clear()
            self._for_good.clear()

    def meet(self, action: str) -> Fault:
        """Counts a call that arrived, and answers what is to become of it."""
        with self._lock:
            self.seen[action] += 1
            planned = self._planned.get(action)
            return planned.pop(0) if planned else self._for_good.get(action, Fault())

    def forward(
        self, action: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[HTTPResponse, bytes]:
        """Has the emulator carry out a call, and answers its answer."""
        at = urlsplit(self._emulator)
        connection = HTTPConnection(at.hostname or LOOPBACK, at.port, timeout=30)
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status == 200:
            with self._lock:
                self.carried_out[action] += 1
        return response, content


@contextmanager
def between(emulator: str) -> Iterator[FaultProxy]:
    """Runs a proxy to the emulator at this URL for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            target = self.headers.get("x-amz-target", "")
            action = target.rpartition(".")[2] or parse_qs(body.decode())["Action"][0]
            fault = proxy.meet(action)
            time.sleep(fault.delay)
            status, headers, content = 500, {"content-type": "text/xml"}, b""
            if fault.forwards:
                passed_on = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in HOP_BY_HOP
                }
                response, content = proxy.forward(action, self.path, body, passed_on)
                status, headers = response.status, dict(response.getheaders())
            if fault.before_answer is not None:
                fault.before_answer()
            if fault.resets:
                self._reset()
                return
            if fault.refuses is not None:
                status, code = fault.refuses
                error = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>"
                content = f"<Response><Errors>{error}</Errors></Response>".encode()
            self._answer(status, headers, content)

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            try:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                # Whoever asked has waited long enough, or is no more.
                self.close_connection = True

        def _reset(self) -> None:
            """Closes the connection so that the other end sees a reset."""
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            # At once: the server would shut it down in good order first.
            os.close(self.connection.detach())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = True
    # A function that was killed leaves connections behind: nobody waits for them.
    server.block_on_close = False
    proxy = FaultProxy(f"http://{LOOPBACK}:{server.server_port}", emulator)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
