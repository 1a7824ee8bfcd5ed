"""Who may ask, and what a page may do: token, Host, size of a request, and the headers of every answer."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LARGEST = 8 * 2**20
"""Bytes of a request's body; a report on 1,000 layers has about one million."""
MOST = 64
"""Requests that are answered at the same time. Who has no token is refused before being counted."""


class Guard:
    """ASGI middleware that answers whoever does not know the token, or comes under another name than loopback's."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token, self.running = app, token, 0
        self.hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        # cookies do not know ports: two labs at once would take each other's
        self.cookie = f"unvanish-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, _hardened(send))
            return
        self.running += 1
        try:
            await self.app(scope, _limited(receive), _hardened(send))
        finally:
            self.running -= 1

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        # A page of another site can make a browser ask, but not under this name: DNS rebinding ends here.
        if headers.get("host", "") not in self.hosts:
            return PlainTextResponse("this server answers on 127.0.0.1 and localhost only", 421)
        if headers.get("origin", "null") not in ("null", f"http://{headers['host']}"):
            return PlainTextResponse("requests of other sites are refused", 403)
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > LARGEST:
            return PlainTextResponse(f"a request holds at most {LARGEST} bytes", 413)
        given = QueryParams(scope.get("query_string", b"")).get("token", "")
        if scope["path"] == "/" and self._right(given):
            return self._entry()
        if not self._right(self._remembered(headers)):
            return PlainTextResponse("open the address that unvanish printed: it holds the token of this server", 403)
        if self.running >= MOST:
            return PlainTextResponse(f"{MOST} requests are being answered: wait for one of them to end", 503)
        return None

    def _right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())

    def _remembered(self, headers: Headers) -> str:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return cookie.value if cookie else ""

    def _entry(self) -> Response:
        """The token leaves the address, so that it stands neither in the history nor in a copied link."""
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
        return answer


def _limited(receive: Receive) -> Receive:
    seen = 0

    async def wrapped() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > LARGEST:
            return {"type": "http.disconnect"}
        return message

    return wrapped


def _hardened(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: Any = MutableHeaders(scope=message)
            headers.setdefault("content-security-policy", POLICY)
            headers["x-content-type-options"] = "nosniff"
            headers["referrer-policy"] = "no-referrer"
            headers["cross-origin-opener-policy"] = "same-origin"
            headers["cross-origin-resource-policy"] = "same-origin"
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return wrapped
