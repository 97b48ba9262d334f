"""The page's server: its files, and a connection to each viewer, in a thread of its own. No ROS."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from vla_ros.strict import one_line, parse_json
from vla_ros.view.access import Access, Grant
from vla_ros.view.acts import MAX_MESSAGE_BYTES, STOP, Act, read_act

SOCKET = "/socket"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    **{f"/{name}": (name, "text/javascript; charset=utf-8") for name in ("page.js", "scene.js", "plots.js", "link.js")},
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    # Nothing but this server's own files runs or is shown, and no other page shows this one.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
HELLO_PATIENCE_S, PING_S = 5.0, 10.0
MAX_VIEWERS, MAX_CONNECTIONS = 20, 60
START_PATIENCE_S = 10.0
WRONG_TOKEN, FULL = 4401, 4429
"""Why a connection is closed, for the page."""


@dataclass(eq=False)
class Viewer:
    """One open page; what it still has to get waits in ``outbox``, of each kind only the newest."""

    origin: str
    grant: Grant
    outbox: dict[str, str | bytes] = field(default_factory=dict)
    has_mail: asyncio.Event = field(default_factory=asyncio.Event)

    def post(self, kind: str, message: str | bytes) -> None:
        self.outbox[kind] = message
        self.has_mail.set()


@dataclass(frozen=True)
class Handlers:
    """What the server does with what viewers say, in its own thread, so nothing here may wait. ``act`` is for a viewer
    who may act, and may raise a ValueError; ``stop`` for anybody."""

    stop: Callable[[Viewer], None]
    act: Callable[[Viewer, Act], None]


class PageServer:
    """Serves from ``start`` to ``stop``; ``publish`` may be called from any thread."""

    def __init__(self, address: str, port: int, access: Access, handlers: Handlers) -> None:
        self._address, self._port = address, port
        self._access = access
        self._handlers = handlers
        self._files = {path: _file(name, kind) for path, (name, kind) in FILES.items()}
        self._latest: dict[str, str | bytes] = {}
        self._viewers: set[Viewer] = set()
        self._numbers = itertools.count(1)
        self._num_connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._started = threading.Event()
        self._ending = asyncio.Event()
        self._error: OSError | None = None

    @property
    def num_viewers(self) -> int:
        return len(self._viewers)

    def has(self, viewer: Viewer) -> bool:
        """Whether that page is still open."""
        return viewer in self._viewers

    @property
    def url(self) -> str:
        """Where this machine's browser finds the page."""
        host = "localhost" if self._address in ("127.0.0.1", "::1", "0.0.0.0", "::", "localhost") else self._address
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"

    def start(self) -> None:
        """Raises ValueError where the address can't be listened on."""
        self._thread.start()
        self._started.wait(START_PATIENCE_S)
        if self._error is not None:
            why = self._error.strerror or str(self._error)
            raise ValueError(f"cannot listen on {self._address}:{self._port}: {why}; give another port or address")

    def stop(self) -> None:
        """Close every connection."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(START_PATIENCE_S)

    def publish(self, kind: str, message: str | bytes) -> None:
        """Every viewer gets it, and whoever comes later; of each ``kind`` only the newest, where one is slow."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._post, kind, message)

    def _post(self, kind: str, message: str | bytes) -> None:
        if isinstance(message, str):  # a picture is of its moment only
            self._latest[kind] = message
        for viewer in self._viewers:
            viewer.post(kind, message)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        quiet = logging.getLogger("vla_ros.view")
        quiet.setLevel(logging.CRITICAL)  # what a stranger's broken handshake is like interests nobody
        try:
            server: Server = await serve(
                self._meet,
                self._address,
                self._port,
                process_request=self._answer,
                logger=quiet,
                open_timeout=HELLO_PATIENCE_S,
                close_timeout=1.0,
                write_limit=65_536,
                server_header=None,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                ping_interval=PING_S,
                ping_timeout=PING_S,
            )
        except OSError as error:
            self._error = error
            return
        self._port = server.sockets[0].getsockname()[1]
        self._started.set()
        async with server:
            await self._ending.wait()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Every request: a file of the page, a refusal, or None where a connection may be opened."""
        refusal = self._access.refuse_request(request.headers.get("Host", ""), request.headers.get("Origin"))
        if refusal:
            return _response(HTTPStatus.FORBIDDEN, f"{refusal}\n".encode())
        path = request.path.partition("?")[0]
        if path == SOCKET:
            is_full = self._num_connections >= MAX_CONNECTIONS
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, b"too many connections\n") if is_full else None
        return self._files.get(path) or _response(HTTPStatus.NOT_FOUND, b"no such page\n")

    async def _meet(self, connection: ServerConnection) -> None:
        """One connection from its first message, which brings the token, to its end."""
        address = str(connection.remote_address[0])
        self._num_connections += 1
        try:
            hello = await asyncio.wait_for(connection.recv(), HELLO_PATIENCE_S)
            viewer = self._admit(address, hello)
            if len(self._viewers) >= MAX_VIEWERS:
                return await connection.close(FULL, f"{MAX_VIEWERS} viewers are here already")
            await self._look_after(connection, viewer)
        except ValueError as error:
            await connection.close(WRONG_TOKEN, one_line(error, 120))
        except (ConnectionClosed, TimeoutError):
            pass
        finally:
            self._num_connections -= 1

    def _admit(self, address: str, hello: str | bytes) -> Viewer:
        document = parse_json(hello)
        token = document.get("token") if isinstance(document, dict) else None
        grant = self._access.grant(address, token if isinstance(token, str) else "")
        viewer = Viewer(f"{grant.name} {next(self._numbers)} ({address})", grant)
        viewer.outbox.update(self._latest)
        you = {"kind": "you", "origin": viewer.origin, "may_act": grant.may_act}
        viewer.post("you", json.dumps(you))
        return viewer

    async def _look_after(self, connection: ServerConnection, viewer: Viewer) -> None:
        self._viewers.add(viewer)
        sending = asyncio.ensure_future(_send(connection, viewer))
        try:
            async for message in connection:
                self._hear(viewer, message)
        finally:
            sending.cancel()
            self._viewers.discard(viewer)

    def _hear(self, viewer: Viewer, message: str | bytes) -> None:
        try:
            act = read_act(message)
            if act.kind == STOP:
                self._handlers.stop(viewer)
            elif not viewer.grant.may_act:
                raise ValueError(f"{act.kind} refused: you may look and stop, nothing else")
            else:
                self._handlers.act(viewer, act)
        except ValueError as error:
            viewer.post("line", json.dumps({"kind": "line", "text": one_line(error)}))

    def tell(self, viewer: Viewer, line: str) -> None:
        """Tell one viewer, from any thread, what came of what it asked for."""
        with suppress(RuntimeError):
            message = json.dumps({"kind": "line", "text": line})
            self._loop.call_soon_threadsafe(viewer.post, "line", message)


async def _send(connection: ServerConnection, viewer: Viewer) -> None:
    """What is in the outbox, as fast as the viewer takes it."""
    with suppress(ConnectionClosed):
        while True:
            await viewer.has_mail.wait()
            viewer.has_mail.clear()
            while viewer.outbox:
                kind = next(iter(viewer.outbox))
                await connection.send(viewer.outbox.pop(kind))


def _file(name: str, kind: str) -> Response:
    return _response(HTTPStatus.OK, (Path(__file__).with_name("page") / name).read_bytes(), kind)


def _response(status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> Response:
    headers: Mapping[str, str] = {
        "Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close", **HEADERS
    }  # fmt: skip
    return Response(status, status.phrase, Headers(headers), body)
