"""The local server of a site, such as the lab: on loopback and for whoever holds the token."""

from __future__ import annotations

import contextlib
import importlib
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable

from unvanish.records import UnvanishError

HOST = "127.0.0.1"


def serve(
    name: str, port: int = 0, *, browser: bool = True, say: Callable[[str], None] = print, **given: object
) -> int:  # fmt: skip
    """Serve the site of that name, such as "lab", until it is interrupted; its address is opened in a browser.

    ``port``: 0 takes any free one. ``say`` is told the address, with its token. ``given``: what the site is made of,
    such as the folder of its runs. Returns the exit status. Raises UnvanishError where the port cannot be had or the
    packages of the extra "lab" are not installed.
    """
    try:
        import uvicorn

        from unvanish.server.app import application
        from unvanish.server.idle import Idle

        site = importlib.import_module(f"unvanish.server.{name}").site(**given)
    except ImportError as error:
        raise UnvanishError(
            f"the page of {name} needs the package {error.name}, which is not installed;"
            " try: pip install 'unvanish[lab]'"
        ) from None
    if not 0 <= port <= 65535:
        raise UnvanishError(f"serving {name} on port {port}: a port is a number from 0 to 65535")
    token = secrets.token_urlsafe(24)
    try:
        listening = listen(port)
    except OSError as error:
        raise UnvanishError(
            f"serving {name} on port {port}: {error.strerror or error}; choose another --port, or none"
        ) from None
    with listening:
        port = listening.getsockname()[1]
        site.warm()  # the address is said when the page is there at once
        address = f"http://{HOST}:{port}/?token={token}"
        say(f"unvanish {name}: {address}  (Ctrl+C ends it)")
        if browser:
            threading.Timer(0.5, webbrowser.open, (address,)).start()
        config = uvicorn.Config(
            application(site, token, port), log_level="error", lifespan="on", timeout_graceful_shutdown=2,
            server_header=False, timeout_notify=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        config.callback_notify = Idle(server.server_state.connections)
        with contextlib.suppress(KeyboardInterrupt):  # how it is meant to end
            server.run(sockets=[listening])
    return 0


def listen(port: int = 0) -> socket.socket:
    """A listening socket on loopback; OSError where the port cannot be had."""
    # asyncio turns Nagle's algorithm off only where the protocol is named: with it, each answer waits 40 ms
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening
