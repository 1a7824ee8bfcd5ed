"""The servers of the lab and of the viewer over real sockets: who is slow, half gone or rude locks nobody out."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from run_files import made

from unvanish.server import idle
from unvanish.server.guard import LARGEST

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Served:
    """A server that runs, and what a browser that may ask says."""

    site: str
    port: int
    token: str

    @property
    def head(self) -> str:
        return f"Host: {HOST}:{self.port}\r\nCookie: unvanish-{self.port}={self.token}\r\n"

    def open(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout=30)

    def ask(self, request: bytes, last: bool = False) -> bytes:
        """What comes back until the server closes; b"" where it hangs up at once, TimeoutError where it does neither.

        ``last``: the sender then says that no more will come, as of a body that was announced.
        """
        with closing(self.open()) as line:
            found = b""
            try:
                line.sendall(request)
                if last:
                    line.shutdown(socket.SHUT_WR)
                while part := line.recv(65536):
                    found += part
            except TimeoutError:
                raise
            except OSError:
                pass  # it may hang up on a request while that is still being sent: what it said before is its answer
            return found

    def get(self, path: str) -> int:
        return status(self.ask(f"GET {path} HTTP/1.1\r\n{self.head}Connection: close\r\n\r\n".encode()))


def status(answer: bytes) -> int:
    """Of an answer; 0 where there is none."""
    found = re.match(rb"HTTP/1\.1 (\d\d\d) ", answer)
    return int(found.group(1)) if found else 0


@pytest.fixture(scope="module", params=["lab", "view"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("runs")
    made(folder / "a.unvanish", 40)
    (folder / "secret.txt").write_text("root:x:0:0")
    site = request.param
    command = [sys.executable, "-m", "unvanish", site, "--no-browser", *([str(folder)] if site == "view" else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, env=environment, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"127\.0\.0\.1:(\d+)/\?token=(\S+)", process.stdout.readline())
            assert found is not None
            yield Served(site, int(found[1]), found[2])
            assert process.poll() is None, "it did not survive"
        finally:
            process.kill()


def own_page(served: Served) -> str:
    return "/api/experiments" if served.site == "lab" else "/api/view/runs"


def test_200_half_open_and_slow_clients_lock_nobody_out(served: Served) -> None:
    """Some say nothing, some half a line, some a body that never comes, some read nothing of their answer."""
    beginnings = [
        b"", b"GET / HT", f"GET / HTTP/1.1\r\n{served.head}X-Slow: ".encode(),
        f"POST / HTTP/1.1\r\nHost: {HOST}:{served.port}\r\nContent-Length: 1000\r\n\r\nxx".encode(),
        f"GET /vega.js HTTP/1.1\r\n{served.head}\r\n".encode(),
    ]  # fmt: skip
    with ExitStack() as stack:
        lines = [stack.enter_context(closing(served.open())) for _ in range(200)]
        for at, line in enumerate(lines):
            line.sendall(beginnings[at % len(beginnings)])
        for _ in range(20):
            assert served.get(own_page(served)) == 200
        until = time.monotonic() + 60
        mute = [line for at, line in enumerate(lines) if at % len(beginnings) < 3]
        while mute and time.monotonic() < until:  # they are let go in the end
            mute = [line for line in mute if not hung_up(line)]
            time.sleep(0.5)
        assert not mute
    assert served.get(own_page(served)) == 200


def hung_up(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        while line.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


METHODS = (
    "GET",
    "GET",
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "PROPFIND",
    "G E T",
)
PIECES = (
    "/", "..", "../../../../etc/passwd", "%2e%2e%2f", "..%5c", "%00", "%ff", "//", "\\", "/static/", "page.html",
    "/api/run/", "/api/view/state", "/api/view/table.csv", "/api/view/page.html", "/api/view/report.json",
    "/api/view/against", "/api/jobs/", "/api/export/", "/check/", "chain", "whatif", ".csv", "?run=", "a.unvanish",
    "../secret.txt", "secret.txt", "%2e%2e%2fsecret.txt", "&other=a.unvanish", "&step=", "&made=1", "&map=", "&px=",
    "?depth=", "?report=/etc/passwd", "99999999999999999999", "-1", "nan", "é", "<script>", "?token=x", "x" * 5_000,
    "#", "http://example.org/", "*", ";", "%", " ", "\t",
)  # fmt: skip
HEADERS = (
    "Host: example.org", "Host: 127.0.0.1:1", "Host:", "Host: [::1]", "Origin: http://example.org",
    "Cookie: unvanish-1=x", "Content-Length: -1", "Content-Length: 5", "Content-Length: 99999999999999999999",
    "Content-Length: ٣", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Connection: upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: x", "Expect: 100-continue", "Range: bytes=0-", "X: " + "y" * 10_000, "Cookie: a=\x01",
    "NoColon", "Accept-Encoding: zstd", "X-Forwarded-Host: example.org",
)  # fmt: skip
BODIES = (
    b"",
    b"{}",
    b"\x00\xff",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"ffffffff\r\n",
    b'{"schema":"unvanish.report/1"}',
    b"x" * 70_000,
)


def rude(served: Served, chance: random.Random, known: bool) -> bytes:
    """One request put together at random; ``known``: with the right name and token at first."""
    path = "/" * (chance.random() < 0.9) + "".join(chance.choice(PIECES) for _ in range(chance.randint(0, 5)))
    if chance.random() < 0.9:
        path = path.replace(" ", "%20").replace("\t", "%09")
    version = chance.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "XTTP/1.1", ""))
    lines = [f"{chance.choice(METHODS)} {path} {version}"]
    if known:
        lines += served.head.strip().split("\r\n")
    else:
        name = f"Host: {chance.choice((f'{HOST}:{served.port}', 'example.org', f'localhost:{served.port}'))}"
        lines += [
            name,
            f"Cookie: unvanish-{served.port}={chance.choice(('', 'x', served.token[:-1], served.token.lower()))}",
        ]
    lines += chance.sample(HEADERS, chance.choice((0, 0, 1, 2)))
    request = "\r\n".join([*lines, "Connection: close", "", ""]).encode("utf-8") + chance.choice(BODIES)
    if chance.random() < 0.1:
        data = bytearray(request[:300])
        data[chance.randrange(len(data))] = chance.randrange(256)
        request = bytes(data) + b"\r\n\r\n"
    return request


@pytest.mark.parametrize("known", [False, True], ids=["strangers", "with the token"])
def test_1500_rude_requests_are_answered_and_no_file_leaves_the_folder(served: Served, known: bool) -> None:
    chance, answers = random.Random(7), Counter[int]()
    for _ in range(1_500):
        request = rude(served, chance, known)
        answer = served.ask(request, last=True)
        answers[status(answer)] += 1
        assert status(answer) < 500, (request[:500], answer[:500])
        assert b"root:x:0:0" not in answer and b"Traceback" not in answer, request[:500]
        if not known:
            assert status(answer) in (0, 400, 403, 404, 405, 413, 421), (request[:500], answer[:300])
    assert answers[0] < 15, "a hang-up may overtake an answer, but not often"
    assert answers[200] > 50 if known else answers[403] > 50 and not answers[200]
    assert served.get(own_page(served)) == 200


def test_a_body_too_large_is_not_taken_in(served: Served) -> None:
    head = f"POST /api/run/whatif HTTP/1.1\r\n{served.head}Connection: close\r\n"
    announced = served.ask(f"{head}Content-Length: {LARGEST + 1}\r\n\r\n".encode(), last=True)
    assert status(announced) == 413
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with closing(served.open()) as line:
        line.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        answer = b""
        try:
            for _ in range(2 * LARGEST // 65536):
                line.sendall(chunk)
            line.sendall(b"0\r\n\r\n")
            answer = line.recv(65536)
        except TimeoutError:
            raise
        except OSError:
            pass  # hung up half way
    assert status(answer) in (0, 400, 413)
    assert served.get(own_page(served)) == 200


class Line:
    """A connection as the server sees it."""

    def __init__(self) -> None:
        self.cycle: Any = None
        self.closed = False
        self.transport = self

    def close(self) -> None:
        self.closed = True


def asked(done: bool) -> Any:
    return SimpleNamespace(response_complete=done)


def test_who_waits_longest_goes_and_who_is_answered_or_asks_again_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(idle.time, "monotonic", lambda: next(clock))
    mute, answered, again = Line(), Line(), Line()
    answered.cycle, again.cycle = asked(False), asked(True)
    look = idle.Idle([mute, answered, again])
    for _ in range(12):
        again.cycle = asked(True)
        run(look())
    assert (mute.closed, answered.closed, again.closed) == (True, False, False)
    many = [Line() for _ in range(idle.MOST)]
    crowd = idle.Idle(many)
    run(crowd())
    many += [Line() for _ in range(40)]
    run(crowd())
    assert [each.closed for each in many] == [True] * 40 + [False] * idle.MOST


def run(work: Any) -> None:
    with pytest.raises(StopIteration):
        work.send(None)
