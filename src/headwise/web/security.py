r"""Who may ask: checked before any route is reached.

- **Host.** A page of another site can make a browser ask 127.0.0.1 under a name of its own (DNS rebinding).
  So the name asked for must be one that this server has.
- **Origin.** What changes something must come from this page, not from another site's form or script.
- **Token.** Whoever is let in from other machines shows a token, compared in constant time. It is asked for
  once; the browser then keeps a cookie that is made from it and from the session, and from which it cannot be
  read.
- **Session.** Every browser has one, a random cookie that scripts cannot read. Its hash is the *owner* of
  what it starts.
- **Size.** A body is read up to a limit and no further, whatever it says of its own length.
- **Content.** Every answer forbids the browser to load, embed or run anything but this page's own files.
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

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headwise.errors import HeadwiseError

__all__ = ["KEY", "SESSION", "Guard", "Rules", "owner_of", "rules_for"]

SESSION, KEY = "headwise_session", "headwise_key"
YEAR = 365 * 24 * 3600
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
SHORTEST_TOKEN = 16

SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Rules:
    """What is allowed.

    Args:
        hosts: Names that the page may be asked for by.
        addresses: Whether any IP address will do as well; an address cannot be rebound.
        token: To be shown by everybody; None where only this machine can ask.
        body, upload: The most bytes of an ordinary request, and of a picture.
    """

    hosts: frozenset[str] = LOCAL
    addresses: bool = False
    token: str | None = None
    body: int = 256 * 1024
    upload: int = 20 * 1024 * 1024


def rules_for(host: str, token: str | None = None, names: Iterable[str] = ()) -> Rules:
    """The rules for listening at a host; a token is made where one is needed and none was given.

    Args:
        host: The address or name that is listened at.
        token: Asked of everybody, if given.
        names: More names that the page may be asked for by, as behind a proxy.

    Raises:
        HeadwiseError: The token is too short.
    """
    if token is not None and (len(token) < SHORTEST_TOKEN or not re.fullmatch(r"[\w.~+/=-]+", token)):
        raise HeadwiseError(
            f"The token has {len(token)} characters; expected at least {SHORTEST_TOKEN} letters, digits and "
            "- . _ ~ + / =. Leave --token out, and one is made."
        )
    more = frozenset(name.strip().lower() for name in names)
    if is_local(host):
        return Rules(hosts=LOCAL | more, token=token)
    own = {socket.gethostname().lower(), socket.getfqdn().lower()}
    any_name = _address(host) is None
    hosts = LOCAL | own | more | ({host.lower()} if any_name else frozenset())
    return Rules(hosts=hosts, addresses=True, token=token or token_urlsafe(24))


def is_local(host: str) -> bool:
    """Can only this machine reach it?"""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def owner_of(session: str) -> str:
    """Who a session is, in files and in memory: its hash, from which the session cannot be had."""
    return sha256(f"headwise session {session}".encode()).hexdigest()[:32]


@dataclass
class Guard:
    """The checks around an application.

    Args:
        app: What is guarded. It finds the owner in `request.state.owner`.
        rules: What is allowed.
        door: The page that asks for the token.
    """

    app: ASGIApp
    rules: Rules
    door: bytes = b""
    uploads: frozenset[str] = field(default=frozenset({"/api/pictures"}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = Headers(scope=scope)
        session, made = _session(headers)
        send = _with_headers(send, _cookie(SESSION, session) if made else None)
        refusal = self._refusal(scope, headers)
        if refusal is None and self.rules.token is not None:
            refusal = await self._ask_for_token(scope, receive, headers, session)
        if refusal is not None:
            return await refusal(scope, receive, send)
        scope.setdefault("state", {})["owner"] = owner_of(session)
        limit = self.rules.upload if scope["path"] in self.uploads else self.rules.body
        return await self.app(scope, _limited(receive, limit), send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host, method = headers.get("host", ""), scope["method"]
        if not self._is_ours(host):
            return _said(400, "This server has another name. Ask for it by the address that it printed.")
        if method in ("GET", "HEAD"):
            foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
            if foreign and not _navigates(scope, headers):
                return _said(403, "Another site asked for this. Open the page itself.")
        elif not _from_here(headers, host):
            return _said(403, "This came from another site, so nothing was done. Use the page itself.")
        limit = self.rules.upload if scope["path"] in self.uploads else self.rules.body
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return _too_large(limit)
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.rules.hosts or (self.rules.addresses and _address(name) is not None)

    async def _ask_for_token(
        self, scope: Scope, receive: Receive, headers: Headers, session: str
    ) -> Response | None:
        """None for who has shown the token; else what to do about it."""
        token = str(self.rules.token)
        key = _key(token, session)
        if hmac.compare_digest(_cookies(headers).get(KEY, "").encode(), key.encode()):
            return None
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(bearer.encode(), token.encode()):
            return None
        shown = ""
        if scope["path"] == "/" and scope["method"] == "GET":
            shown = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        elif scope["path"] == "/token" and scope["method"] == "POST":
            body = await _body(_limited(receive, self.rules.body))
            shown = parse_qs(body.decode("latin-1")).get("token", [""])[0].strip()
        if hmac.compare_digest(shown.encode(), token.encode()):
            entered = RedirectResponse("/", 303)  # without the token, which would stay in the history
            entered.headers.append("set-cookie", _cookie(KEY, key))
            return entered
        if scope["path"] in ("/", "/token"):
            return Response(self.door, 401, media_type="text/html")
        if scope["path"] == "/page/style.css":
            return None  # the page that asks for the token has it, too
        return _said(401, "This server asks for a token, which it printed when it started.")


def _session(headers: Headers) -> tuple[str, bool]:
    """The browser's session, and whether it was made just now."""
    found = _cookies(headers).get(SESSION, "")
    return (found, False) if re.fullmatch(r"[\w-]{32}", found) else (token_urlsafe(24), True)


def _cookies(headers: Headers) -> dict[str, str]:
    return cookie_parser(headers.get("cookie", ""))


def _cookie(name: str, value: str) -> str:
    return f"{name}={value}; Max-Age={YEAR}; Path=/; HttpOnly; SameSite=Lax"


def _key(token: str, session: str) -> str:
    return hmac.new(token.encode(), session.encode(), "sha256").hexdigest()


def _navigates(scope: Scope, headers: Headers) -> bool:
    """Is a link followed to the page itself?"""
    return scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"


def _from_here(headers: Headers, host: str) -> bool:
    """Browsers say where a request comes from; who says nothing is no browser, and carries no cookie."""
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == host
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def _address(name: str) -> Any:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _said(status: int, sentence: str) -> Response:
    return JSONResponse({"detail": sentence}, status, headers={"connection": "close"})


def _too_large(limit: int) -> Response:
    size = f"{limit // 2**20} MB" if limit >= 2**20 else f"{limit // 2**10} kB"
    return _said(413, f"That is too much at once; expected at most {size}.")


def _limited(receive: Receive, limit: int) -> Receive:
    """Read up to so many bytes."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise HTTPException(413, "That is too much at once.", {"connection": "close"})
        return message

    return limited


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _with_headers(send: Send, cookie: str | None) -> Send:
    """Add the security headers that an answer has not set itself, and the session's cookie if it is new."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY.items():
                headers.setdefault(name, value)
            if cookie is not None:
                headers.append("set-cookie", cookie)
        await send(message)

    return sent
