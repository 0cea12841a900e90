"""The web page of annotation, for people on this machine alone.

It answers no name but this machine's own (else a page from elsewhere could reach it through a name of its own: DNS
rebinding), no path without the token, and no request that another site's page sent. Nothing is fetched from anywhere;
what models and people wrote travels as JSON and is shown as text, never as HTML, and the page runs no script but its
own.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from l2.align.annotation.board import Board, Event, Stale
from l2.align.annotation.desk import Desk
from l2.align.annotation.sampling import Ahead
from l2.align.annotation.view import view
from l2.files.errors import BadInput, L2Error

PAGE = Path(__file__).parent / "page"
FILES = {"": "page.html", "page.css": "page.css", "page.js": "page.js"}
HOSTS = {"127.0.0.1", "localhost"}
MAX_BODY = 1 << 17  # bytes of a request (ours): a prompt of LONGEST characters fits
NAME = re.compile(r"[\w.-]{1,40}")
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Lets nothing through that does not name this machine and hold the token; adds the headers of SECURITY."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # the server's own start and stop; there are no web sockets
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        refused = self._refusal(scope)
        await (refused or self.app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if _name(headers.get("host", "")) not in HOSTS:
            return PlainTextResponse("this server answers to localhost alone\n", 421)
        if origin is not None and urlsplit(origin).netloc != headers["host"]:
            return PlainTextResponse("requests of other sites are not answered\n", 403)
        given = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        if not hmac.compare_digest(given.encode(), self.token):
            return PlainTextResponse("not found\n", 404)
        return None


def _name(host: str) -> str:
    return host.rpartition(":")[0] if re.search(r":\d+$", host) else host


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _who(given: Any) -> str:
    if not isinstance(given, str) or not NAME.fullmatch(given):
        raise BadInput("name", f"{given!r:.60}", "1 to 40 letters, digits, . - or _")
    return given


def _act(board: Board, action: str, body: dict[str, Any], now: float) -> Event:
    """The event that a request asks for. Raises BadInput for what is no request, Stale for what comes too late."""
    who, item, safety = _who(body.get("who")), body.get("item"), body.get("safety")
    if action == "choose":
        label = None if safety is None else str(safety)
        return board.choose(who, str(item), body.get("position", -1), str(body.get("rating")), label, now)
    if action == "skip":
        return board.skip(who, str(item), now)
    if action == "ask":
        return board.ask(who, str(body.get("text", "")), now, edit=None if item is None else str(item))
    return board.end(who, now) if action == "end" else board.undo(who, now)


ACTIONS = ("choose", "skip", "ask", "end", "undo")


class _Api:
    """What the page asks for: to see where somebody stands, and to do something."""

    def __init__(self, desk: Desk, ahead: Ahead | None) -> None:
        self.desk, self.ahead = desk, ahead

    def _shown(self, who: str) -> Response:
        seen = view(self.desk.board, who, self.desk.clock(), sampled=self.ahead is not None)
        if self.ahead is not None:
            self.ahead.wake()
        return _json(seen)

    async def look(self, request: Request) -> Response:
        try:
            with self.desk.lock:
                return self._shown(_who(request.query_params.get("who")))
        except L2Error as error:
            return _sorry(error)

    async def act(self, request: Request) -> Response:
        """Do it, on disk first, and show what is next."""
        if request.headers.get("content-type") != "application/json":
            return _json({"error": "the request is no JSON"}, 415)
        try:
            body, action = await _body(request), request.path_params["action"]
            if action not in ACTIONS:
                raise BadInput("request", f"{action!r:.60}", f"one of {', '.join(ACTIONS)}")
            if action == "ask" and self.ahead is None:
                raise Stale("no model is at hand to answer")
            with self.desk.lock:
                self.desk.do(_act(self.desk.board, action, body, self.desk.clock()))
                return self._shown(body["who"])
        except L2Error as error:
            return _sorry(error)


async def _body(request: Request) -> dict[str, Any]:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise BadInput("request", f"more than {MAX_BODY:,} bytes", "less")
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise BadInput("request", f"{data[:40]!r}", "a JSON object")
    return body


def _sorry(error: L2Error) -> Response:
    return _json(
        {"error": str(error)}, 409 if isinstance(error, Stale) else 400 if isinstance(error, BadInput) else 500
    )


def make_app(desk: Desk, token: str, ahead: Ahead | None) -> ASGIApp:
    """The page at /TOKEN/ and what it asks for beneath it."""
    api = _Api(desk, ahead)
    routes = [
        *(Route(f"/{{token}}/{name}", _file(file)) for name, file in FILES.items()),
        Route("/{token}/api/view", api.look),
        Route("/{token}/api/{action}", api.act, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), token)


def _file(name: str) -> Callable[[Request], Response]:
    return lambda request: FileResponse(PAGE / name)


def listen(port: int) -> socket.socket:
    """A socket on this machine's loopback address; port 0 is any that is free. Raises L2Error where it is taken."""
    at = socket.socket()
    at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        at.bind(("127.0.0.1", port))
        at.listen(128)  # whoever comes before the server runs waits for it
    except OSError as error:
        at.close()
        raise L2Error(f"--port {port}: can't be listened on ({error.strerror})") from None
    return at


class Service(uvicorn.Server):
    """Serves an app on a socket until `stop`, or until the process is asked to end by Ctrl-C or SIGTERM."""

    def __init__(self, app: ASGIApp, at: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            http="h11",
            ws="none",
            loop="asyncio",
            log_config=None,  # the token stays out of logs
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)
        self.at = at

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End in order at a signal, and leave what it means to the caller (uvicorn would raise it anew)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """End after the requests that are being answered."""
        self.should_exit = True

    def run_here(self) -> None:
        """Serve; returns when it has ended."""
        asyncio.run(self.serve(sockets=[self.at]))
