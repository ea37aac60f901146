"""Serving pages: a socket, security headers, and a limit on request bodies.

- **Headers.** Every response forbids the browser to load, embed or run anything but the page's own files.
- **Size.** A request body is read up to a limit and no further, whatever length it announces.

Each page decides which requests it answers: web/security.py by host, origin and token, study/server.py by
link.
"""

import socket
from collections.abc import Iterable, Mapping

from headwise.errors import HeadwiseError, MissingExtra

try:
    import uvicorn
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.types import ASGIApp, Message, Receive, Send
except ModuleNotFoundError as missing:
    raise MissingExtra("The page needs FastAPI and uvicorn: pip install 'headwise[web]'") from missing

__all__ = ["SECURITY_HEADERS", "is_too_large", "limit_body", "listen", "serve", "too_large", "with_headers"]

SECURITY_HEADERS = {  # each page adds its content-security-policy
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; requests that come before the server runs wait in its backlog.

    Raises:
        HeadwiseError: The address is taken, not allowed or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        sentence = f"Cannot serve at {host}, port {port}: {reason}. Give another --port or --host."
        raise HeadwiseError(sentence) from None


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serve an application on a listening socket until the process is interrupted."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would record the tokens in links
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listening])


def with_headers(send: Send, defaults: Mapping[str, str], added: Iterable[tuple[str, str]] = ()) -> Send:
    """A `send` that sets the headers in `defaults` if a response lacks them, and adds those in `added`."""

    async def send_with_headers(message: Message) -> None:
        """Send a message; the headers are set in the one that starts the response."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in defaults.items():
                headers.setdefault(name, value)
            for name, value in added:
                headers.append(name, value)
        await send(message)

    return send_with_headers


def is_too_large(headers: Headers, limit: int) -> bool:
    """Whether a request announces a body of more than `limit` bytes, or an invalid length."""
    length = headers.get("content-length", "0")
    return not length.isdecimal() or len(length) > 18 or int(length) > limit


def too_large(limit: int) -> HTTPException:
    """The error for a body of more than `limit` bytes; the connection is closed, not read to the end."""
    size = f"{limit // 2**20} MB" if limit >= 2**20 else f"{limit // 2**10} kB"
    return HTTPException(413, f"The request is too large; expected at most {size}.", {"connection": "close"})


def limit_body(receive: Receive, limit: int) -> Receive:
    """A `receive` that raises `too_large` once a body has more than `limit` bytes, whatever it announced."""
    total = 0

    async def receive_limited() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise too_large(limit)
        return message

    return receive_limited
