"""The page's server over a real connection: files, tokens, slow viewers, whom it refuses."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("websockets", reason="needs the extra view: pip install 'vla_ros[view]'")
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from vla_ros.view.access import Access, Grant, make_access
from vla_ros.view.acts import Act
from vla_ros.view.server import FILES, FULL, MAX_VIEWERS, WRONG_TOKEN, Handlers, PageServer

TOKEN = "0123456789abcdef"
PATIENCE_S = 20.0


class Page:
    """A server, and what it was told."""

    def __init__(self, access: Access) -> None:
        self.stops: list[str] = []
        self.acts: list[tuple[str, Act]] = []
        handlers = Handlers(
            lambda viewer: self.stops.append(viewer.origin),
            lambda viewer, act: self.acts.append((viewer.origin, act)),
        )
        self.server = PageServer("127.0.0.1", 0, access, handlers)
        self.server.start()
        self.host = self.server.url.split("/")[2]

    @contextmanager
    def open(self, token: str = "", **options: Any) -> Iterator[ClientConnection]:
        with connect(f"ws://{self.host}/socket", **options) as viewer:
            viewer.send(json.dumps({"token": token}))
            yield viewer

    def get(self, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = HTTPConnection(self.host, timeout=PATIENCE_S)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page(make_access("127.0.0.1", "", False))
    yield page
    page.server.stop()


@pytest.fixture
def guarded() -> Iterator[Page]:
    page = Page(Access(((TOKEN.encode(), Grant("anna", True)), (TOKEN.encode() + b"2", Grant("ben", False)))))
    yield page
    page.server.stop()


def hear(viewer: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of a kind."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        message = viewer.recv(timeout=PATIENCE_S)
        if isinstance(message, str) and (document := json.loads(message))["kind"] == kind:
            return document
    raise AssertionError(f"no message of kind {kind}")


def wait_for(is_so: Any) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, "in vain"
        time.sleep(0.01)


def test_every_file_is_served_and_nothing_else_runs_or_frames_it(page: Page) -> None:
    for path in FILES:
        status, body, headers = page.get(path)
        assert status == 200 and body
        assert headers["X-Frame-Options"] == "DENY" and "default-src 'none'" in headers["Content-Security-Policy"]
    assert page.get("/../access.py")[0] == 404 and page.get("/etc/passwd")[0] == 404
    folder = Path(PageServer.__init__.__code__.co_filename).with_name("page")
    assert {path.name for path in folder.iterdir()} == {name for name, _ in FILES.values()}


def test_the_page_puts_text_in_as_text_and_runs_no_inline_script() -> None:
    folder = Path(PageServer.__init__.__code__.co_filename).with_name("page")
    for path in folder.glob("*.js"):
        text = path.read_text()
        assert "innerHTML" not in text and "eval(" not in text and "document.write" not in text, path.name
    html = (folder / "index.html").read_text()
    assert not re.search(r"<[^>]*\son\w+=", html) and "<script>" not in html
    assert "style=" not in html and "http://" not in html and "https://" not in html


def test_a_viewer_gets_what_there_is_and_what_comes(page: Page) -> None:
    page.server.publish("scene", json.dumps({"kind": "scene", "name": "arm"}))
    with page.open() as viewer:
        assert hear(viewer, "scene")["name"] == "arm"
        page.server.publish("pose", json.dumps({"kind": "pose", "mode": "HOLD"}))
        assert hear(viewer, "pose")["mode"] == "HOLD"
        wait_for(lambda: page.server.num_viewers == 1)
    wait_for(lambda: page.server.num_viewers == 0)


def test_acts_come_with_their_origin_and_a_stop_past_the_others(page: Page) -> None:
    with page.open() as one, page.open() as two:
        origin = hear(two, "you")["origin"]
        one.send(json.dumps({"act": "engage"}))
        wait_for(lambda: page.acts)
        two.send(json.dumps({"act": "stop"}))
        wait_for(lambda: page.stops)
        assert page.stops == [origin] and page.acts[0][1] == Act("engage") and page.acts[0][0] != origin
        two.send(json.dumps({"act": "instruct", "text": "x" * 10_000}))
        assert "10000 characters" in hear(two, "line")["text"]
        two.send("nonsense")
        assert hear(two, "line")["text"]
        assert len(page.acts) == 1


def test_a_read_only_viewer_looks_and_may_stop(guarded: Page) -> None:
    with guarded.open(TOKEN + "2") as viewer:
        assert hear(viewer, "you")["may_act"] is False
        viewer.send(json.dumps({"act": "engage"}))
        assert "you may look and stop" in hear(viewer, "line")["text"]
        viewer.send(json.dumps({"act": "stop"}))
        wait_for(lambda: guarded.stops)
        assert guarded.stops[0].startswith("ben ") and not guarded.acts


@pytest.mark.parametrize("hello", ["{}", '{"token": "wrong"}', '{"token": 5}', "nonsense", "[]", b"\xff"])
def test_without_the_right_token_nothing_is_told(guarded: Page, hello: str | bytes) -> None:
    guarded.server.publish("scene", json.dumps({"kind": "scene"}))
    with connect(f"ws://{guarded.host}/socket") as viewer:
        viewer.send(hello)
        with pytest.raises(ConnectionClosed) as closed:
            viewer.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == WRONG_TOKEN
    assert TOKEN not in closed.value.rcvd.reason and guarded.server.num_viewers == 0


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
def test_a_page_of_another_origin_opens_no_connection(page: Page, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused, page.open(origin=origin):
        pass
    assert refused.value.response.status_code == 403
    assert page.get("/", Host="evil.example")[0] == 403, "a foreign name that leads here"
    assert page.get("/", Host=page.host)[0] == 200


def test_a_viewer_that_reads_nothing_keeps_nobody_waiting_and_costs_no_memory(page: Page) -> None:
    big = b"\x01" + bytes(1_000_000)
    with socket.create_connection(page.host.split(":")) as deaf, page.open(max_size=None) as other:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        key = b"dGhlIHNhbXBsZSBub25jZQ=="
        deaf.sendall(
            b"GET /socket HTTP/1.1\r\nHost: "
            + page.host.encode()
            + b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: " + key + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        mask, hello = b"abcd", b'{"token": ""}'
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(hello))
        deaf.sendall(bytes([0x81, 0x80 | len(hello)]) + mask + masked)
        wait_for(lambda: page.server.num_viewers == 2)
        for number in range(50):
            page.server.publish("camera 0", big)
            page.server.publish("pose", json.dumps({"kind": "pose", "number": number}))
            assert hear(other, "pose")["number"] == number
        waiting = [len(viewer.outbox) for viewer in page.server._viewers]
        assert max(waiting) <= 4, "of each kind only the newest"


def test_more_viewers_than_there_is_room_for_are_refused(page: Page) -> None:
    with ExitStack() as viewers:
        for _ in range(MAX_VIEWERS):
            viewers.enter_context(page.open())
        wait_for(lambda: page.server.num_viewers == MAX_VIEWERS)
        with page.open() as one_more, pytest.raises(ConnectionClosed) as closed:
            one_more.recv(timeout=PATIENCE_S)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == FULL


def test_a_port_in_use_is_refused_in_one_line(page: Page) -> None:
    port = int(page.host.partition(":")[2])
    other = PageServer("127.0.0.1", port, Access(), Handlers(lambda v: None, lambda v, a: None))
    with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port}: .*give another port"):
        other.start()
