r"""Which requests are answered, checked before any route is reached.

- **Host.** A page of another site can make a browser ask 127.0.0.1 under a name of its own (DNS rebinding).
  So a request must name this server by a name that it has.
- **Origin.** What changes something must come from this page, not from another site's form or script.
- **Token.** Requests from other machines must show a token, compared in constant time. It is typed once;
  the browser then keeps a cookie that is made from the token and the session, and reveals neither.
- **Session.** Every browser has one, a random cookie that scripts cannot read. Its hash is the *owner* of
  what it starts.

Security headers and the limit on request bodies are those of serving.py.
"""

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_urlsafe
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headwise.errors import HeadwiseError
from headwise.serving import SECURITY_HEADERS, is_too_large, limit_body, too_large, with_headers

__all__ = ["HEADERS", "KEY", "SESSION", "Guard", "Rules", "owner_of", "rules_for"]

SESSION, KEY = "headwise_session", "headwise_key"
YEAR = 365 * 24 * 3600
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
SHORTEST_TOKEN = 16

HEADERS = SECURITY_HEADERS | {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "same-origin",
}


@dataclass(frozen=True)
class Rules:
    """Which requests are answered.

    Args:
        hosts: Names under which the page is answered.
        addresses: Whether any IP address is accepted as well; an address cannot be rebound.
        token: What every browser must show; None where only this machine can connect.
        body: The largest body of an ordinary request, in bytes.
        upload: The largest image that may be uploaded, in bytes.
    """

    hosts: frozenset[str] = LOCAL
    addresses: bool = False
    token: str | None = None
    body: int = 256 * 1024
    upload: int = 20 * 1024 * 1024


def rules_for(host: str, token: str | None = None, names: Iterable[str] = ()) -> Rules:
    """The rules for listening at a host; a token is made where one is needed and none is passed.

    Args:
        host: The address or name at which the server listens.
        token: The token that every browser must show; without one, other machines get a random token.
        names: More names under which the page is answered, as behind a proxy.

    Raises:
        HeadwiseError: The token is too short.
    """
    if token is not None and (len(token) < SHORTEST_TOKEN or not re.fullmatch(r"[\w.~+/=-]+", token)):
        raise HeadwiseError(
            f"The token has {len(token)} characters; expected at least {SHORTEST_TOKEN} letters, digits and "
            "- . _ ~ + / =. Leave --token out, and one is made."
        )
    proxied = frozenset(name.strip().lower() for name in names)
    if is_local(host):
        return Rules(hosts=LOCAL | proxied, token=token)
    machine = {socket.gethostname().lower(), socket.getfqdn().lower()}
    listened = {host.lower()} if _address(host) is None else frozenset()
    hosts = LOCAL | machine | proxied | listened
    return Rules(hosts=hosts, addresses=True, token=token or token_urlsafe(24))


def is_local(host: str) -> bool:
    """Whether only this machine can reach this host."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def owner_of(session: str) -> str:
    """The name of a session in files and in memory: its hash, from which the cookie cannot be computed."""
    return sha256(f"headwise session {session}".encode()).hexdigest()[:32]


@dataclass
class Guard:
    """The checks around an application.

    Args:
        app: The application, which reads the owner of a request in `request.state.owner`.
        rules: Which requests are answered.
        token_page: The HTML page that asks for the token.
        uploads: Paths whose bodies may have up to `rules.upload` bytes.
    """

    app: ASGIApp
    rules: Rules
    token_page: bytes = b""
    uploads: frozenset[str] = field(default=frozenset({"/api/pictures"}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = Headers(scope=scope)
        session, is_new = _session(headers)
        send = with_headers(send, HEADERS, [("set-cookie", _cookie(SESSION, session))] if is_new else [])
        refusal = self._refusal(scope, headers)
        if refusal is None and self.rules.token is not None:
            refusal = await self._ask_for_token(scope, receive, headers, session)
        if refusal is not None:
            return await refusal(scope, receive, send)
        scope.setdefault("state", {})["owner"] = owner_of(session)
        return await self.app(scope, limit_body(receive, self._limit(scope)), send)

    def _limit(self, scope: Scope) -> int:
        return self.rules.upload if scope["path"] in self.uploads else self.rules.body

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host, method = headers.get("host", ""), scope["method"]
        if not self._has_name(host):
            return _refuse(400, "This server is known by another name. Use the address that it printed.")
        if method in ("GET", "HEAD"):
            foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
            if foreign and not _navigates(scope, headers):
                return _refuse(403, "This request came from another site. Open the page itself.")
        elif not _same_origin(headers, host):
            return _refuse(403, "This request came from another site and was refused. Use the page itself.")
        if is_too_large(headers, limit := self._limit(scope)):
            return _refuse(413, too_large(limit).detail)
        return None

    def _has_name(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.rules.hosts or (self.rules.addresses and _address(name) is not None)

    async def _ask_for_token(
        self, scope: Scope, receive: Receive, headers: Headers, session: str
    ) -> Response | None:
        """None where the token has been shown; otherwise the answer that asks for it or sets its cookie."""
        token = str(self.rules.token)
        key = _key(token, session)
        if hmac.compare_digest(_cookies(headers).get(KEY, "").encode(), key.encode()):
            return None
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(bearer.encode(), token.encode()):
            return None
        typed = ""
        if scope["path"] == "/" and scope["method"] == "GET":
            typed = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        elif scope["path"] == "/token" and scope["method"] == "POST":
            try:
                body = await _body(limit_body(receive, self.rules.body))
            except HTTPException as refusal:  # outside the application, which would answer it
                return _refuse(refusal.status_code, refusal.detail)
            typed = parse_qs(body.decode("latin-1")).get("token", [""])[0].strip()
        if hmac.compare_digest(typed.encode(), token.encode()):
            entered = RedirectResponse("/", 303)  # without the token, which would stay in the history
            entered.headers.append("set-cookie", _cookie(KEY, key))
            return entered
        if scope["path"] in ("/", "/token"):
            return Response(self.token_page, 401, media_type="text/html")
        if scope["path"] == "/page/style.css":
            return None  # the page that asks for the token needs it
        return _refuse(401, "This server requires the token that it printed when it started.")


def _session(headers: Headers) -> tuple[str, bool]:
    """The browser's session, and whether it is new."""
    session = _cookies(headers).get(SESSION, "")
    return (session, False) if re.fullmatch(r"[\w-]{32}", session) else (token_urlsafe(24), True)


def _cookies(headers: Headers) -> dict[str, str]:
    return cookie_parser(headers.get("cookie", ""))


def _cookie(name: str, value: str) -> str:
    return f"{name}={value}; Max-Age={YEAR}; Path=/; HttpOnly; SameSite=Lax"


def _key(token: str, session: str) -> str:
    return hmac.new(token.encode(), session.encode(), "sha256").hexdigest()


def _navigates(scope: Scope, headers: Headers) -> bool:
    """Whether the browser follows a link to the page itself."""
    return scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"


def _same_origin(headers: Headers, host: str) -> bool:
    """Browsers name the origin of a request; a client that does not is a program, without cookies."""
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == host
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def _address(name: str) -> Any:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _refuse(status: int, sentence: str) -> Response:
    return JSONResponse({"detail": sentence}, status, headers={"connection": "close"})


async def _body(receive: Receive) -> bytes:
    chunks, more = [], True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)
