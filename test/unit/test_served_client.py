"""The client of a policy server, against one in this process: what it asks, and what it makes of bad answers."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import served_helpers  # noqa: E402
from served_helpers import DIM, HORIZON, MODES, Served, serving  # noqa: E402

from vla_ros.policies.base import PolicyUnavailable  # noqa: E402
from vla_ros.policies.served.config import check_url, url_warning  # noqa: E402
from vla_ros.policies.served.connection import MAX_ANSWER_BYTES, Server, connected, read_key  # noqa: E402
from vla_ros.policies.served.link import ServerLink  # noqa: E402
from vla_ros.policies.served.messages import pack, unpack  # noqa: E402

PICTURE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
MESSAGE = {
    "base_rgb": PICTURE,
    "wrist_rgb": PICTURE,
    "joints": np.array([0.1, -0.2], np.float32),
    "gripper": np.array([0.3], np.float32),
    "prompt": "touch the röd block",
}
KEY = "the-secret-of-the-server"


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture
def link(served: Served) -> Iterator[ServerLink]:
    link = ServerLink(Server(served.url()), answer_timeout_s=5.0)
    yield link
    link.close()


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.005)


def test_arrays_are_written_as_openpi_reads_them_and_read_as_it_writes_them() -> None:
    read = served_helpers.unpack(pack(MESSAGE))
    assert read["prompt"] == MESSAGE["prompt"] and read["joints"].dtype == np.float32
    for name in ("base_rgb", "joints", "gripper"):
        np.testing.assert_array_equal(read[name], MESSAGE[name])
    back = unpack(served_helpers.pack({**MESSAGE, "step": np.int64(7), "nested": {"truth": np.array([True])}}))
    assert back["step"] == 7 and back["nested"]["truth"].tolist() == [True]
    np.testing.assert_array_equal(back["base_rgb"], PICTURE)
    assert unpack(served_helpers.pack({"a": np.zeros((0, 3))}))["a"].shape == (0, 3)


@pytest.mark.parametrize(
    "data, line",
    [
        (b"\xc1", "not msgpack"),
        (b"", "not msgpack"),
        (msgpack.packb([1, 2]), "a list by itself; expected a dictionary"),
        (msgpack.packb({1: 2}), "not msgpack.*int is not allowed"),
        (msgpack.packb({"a": {b"__ndarray__": True, b"data": b"", b"dtype": "|O", b"shape": [0]}}), r"of type '\|O'"),
        (msgpack.packb({"a": {b"__ndarray__": True, b"data": b"", b"dtype": ["<f4"], b"shape": [0]}}), "of type"),
        (msgpack.packb({"a": {b"__ndarray__": True, b"data": b"12", b"dtype": "<f4", b"shape": [1]}}), "2 bytes"),
        (msgpack.packb({"a": {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [-1, 0]}}), "shape"),
        (msgpack.packb({"a": {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [0] * 9}}), "8 dim"),
        (msgpack.packb({"a": {b"__ndarray__": True, b"dtype": "<f4", b"shape": [0]}}), "not msgpack"),
        (msgpack.packb({"a": msgpack.ExtType(5, b"code")}), "not msgpack"),
        (b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0", "not msgpack"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "not msgpack"),
    ],
)
def test_what_is_no_dictionary_of_arrays_is_refused_in_one_line(data: bytes, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        unpack(data)
    assert "\n" not in str(caught.value)


def test_an_answer_comes_back_and_the_server_saw_what_was_asked(served: Served, link: ServerLink) -> None:
    answer = link.ask(MESSAGE)
    assert answer["actions"].shape == (HORIZON, DIM) and not link.trouble
    (seen,) = served.seen
    assert seen.keys() == MESSAGE.keys() and seen["prompt"] == MESSAGE["prompt"]
    np.testing.assert_array_equal(seen["base_rgb"], PICTURE)
    assert "Authorization" not in served.headers[0] and "Sec-WebSocket-Extensions" not in served.headers[0]


LINES = {
    "text": "failed and says: KeyError: 'observation/state'",
    "huge": "sent more than 16 MB",
    "fragments": "sent more than 16 MB",
    "objects": r"an array is of type '\|O'",
    "garbage": "answered not msgpack",
    "closes": r"closed the connection \(code 1001: going away\)",
}


@pytest.mark.parametrize("mode", LINES)
def test_a_bad_answer_is_named_and_the_next_one_is_as_good_as_ever(mode: str, served: Served, link: ServerLink) -> None:
    assert mode in MODES and link.ask(MESSAGE)
    served.mode = mode
    with pytest.raises(PolicyUnavailable, match=LINES[mode]) as caught:
        link.ask(MESSAGE)
    assert "\n" not in str(caught.value) and link.trouble
    served.mode = "good"
    wait_until(lambda: not link.trouble, "a new connection")
    assert link.ask(MESSAGE)["actions"].shape == (HORIZON, DIM)


def test_the_answer_to_an_earlier_question_is_never_taken_for_the_next(served: Served, link: ServerLink) -> None:
    assert link.ask(MESSAGE)
    served.mode = "silent"
    with pytest.raises(PolicyUnavailable, match="did not answer within 0.2 s"):
        link.ask(MESSAGE, timeout_s=0.2)
    served.mode = "good"
    with pytest.raises(PolicyUnavailable, match="did not answer within 0.2 s"):
        link.ask(MESSAGE)  # the old connection, where the answer could still come, is not used again
    wait_until(lambda: not link.trouble, "a new connection")
    served.mode = "twice"
    assert link.ask(MESSAGE)
    wait_until(lambda: len(served.seen) == 3, "the last one")
    with pytest.raises(PolicyUnavailable, match="said something that it was not asked"):
        for _ in range(1000):
            link.ask(MESSAGE)


def test_a_server_that_nobody_asks_is_missed_when_it_goes(served: Served, link: ServerLink) -> None:
    served.mode = "closes"
    link.start_sync()
    with pytest.raises(PolicyUnavailable):
        link.ask(MESSAGE)
    served.mode = "text_start"
    wait_until(lambda: "KeyError" in link.trouble, "what the server says when it is connected to")
    served.mode = "good"
    wait_until(lambda: not link.trouble, "a new connection")


def test_a_new_connection_is_not_used_before_it_is_checked(served: Served, link: ServerLink) -> None:
    link.start_sync()
    allowed = threading.Event()

    def check(connection: object) -> None:
        if not allowed.is_set():
            raise PolicyUnavailable("it is another one")

    link.check = check
    served.mode = "closes"
    with pytest.raises(PolicyUnavailable):
        link.ask(MESSAGE)
    served.mode = "good"
    wait_until(lambda: link.trouble == "it is another one", "the reason")
    with pytest.raises(PolicyUnavailable, match="it is another one"):
        link.ask(MESSAGE)
    allowed.set()
    wait_until(lambda: not link.trouble, "a connection that passes")


def test_nobody_reading_at_the_other_end_is_no_reason_to_wait_for_ever() -> None:
    with socket.create_server(("localhost", 0)) as nobody:
        url = f"ws://localhost:{nobody.getsockname()[1]}"
        with pytest.raises(PolicyUnavailable, match=r"did not answer within 0.2 s"):
            with connected(Server(url), 0.2):
                pass
    with pytest.raises(PolicyUnavailable, match="refuses the connection; is the server running"):
        ServerLink(Server(url), 1.0).start_sync()


def test_sending_ends_where_the_server_has_stopped_to_read(served: Served, monkeypatch) -> None:
    monkeypatch.setattr("vla_ros.policies.served.connection.SEND_TIMEOUT_S", 1.0)
    reading = threading.Event()
    monkeypatch.setattr(served_helpers, "answer", lambda *_: reading.wait(30))
    with connected(Server(served.url()), 5.0) as connection:
        too_much = {"prompt": "x" * MAX_ANSWER_BYTES}
        with pytest.raises(PolicyUnavailable):
            for _ in range(20):
                connection.ask(too_much, 0.1)
        reading.set()


def test_the_key_is_sent_and_shown_nowhere(tmp_path: Path, caplog) -> None:
    caplog.set_level("DEBUG")
    (tmp_path / "key").write_text(f"{KEY}\n")
    server = Server("ws://localhost:1", read_key(str(tmp_path / "key")))
    assert server.api_key == KEY and KEY not in repr(server)
    with serving(key=KEY) as served:
        with connected(Server(served.url(), KEY), 5.0) as connection:
            assert connection.ask(MESSAGE, 5.0)
        assert served.headers[0]["Authorization"] == f"Api-Key {KEY}"
        with pytest.raises(PolicyUnavailable, match="refuses with HTTP status 401; give its key") as caught:
            with connected(Server(served.url(), "another-key"), 5.0):
                pass
        assert "another-key" not in str(caught.value)
    ours = [record for record in caplog.records if "server" not in record.name]
    assert not any(KEY in record.getMessage() for record in ours)


@pytest.mark.parametrize("content", [b"", b"short", b"two words of a key", b"x" * 5000, "schlüssel-mit".encode()])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValueError, match="api_key_file") as caught:
        read_key(str(tmp_path / "key"))
    assert not content or content.decode() not in str(caught.value)
    with pytest.raises(ValueError, match="No such file"):
        read_key(str(tmp_path / "none"))


def test_a_certificate_is_verified_unless_its_authority_is_given(tmp_path: Path) -> None:
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "ca.pem", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(["openssl", "req", *made, *subject], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    with serving(context=context) as served:
        with pytest.raises(PolicyUnavailable, match=r"can't be verified \(.*self.signed.*\); give its authority's"):
            with connected(Server(served.url("wss")), 5.0):
                pass
        with connected(Server(served.url("wss"), ca_file=str(tmp_path / "ca.pem")), 5.0) as connection:
            assert connection.ask(MESSAGE, 5.0)
        (tmp_path / "bad.pem").write_text("no certificate")
        with pytest.raises(ValueError, match="ca_file .*give certificates in PEM"):
            with connected(Server(served.url("wss"), ca_file=str(tmp_path / "bad.pem")), 5.0):
                pass


@pytest.mark.parametrize(
    "url",
    [
        "http://host:1",
        "ws://",
        "ws://host:port",
        "ws://host:99999",
        "ws://user:password@host:1",
        "wss://host/?token=secret",
        "ws://ho st:1",
        "ws://host:1\nx",
    ],
)
def test_what_is_no_address_of_a_server_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(ValueError, match=r"policy.url .*expected ws://host:port or wss://host") as caught:
        check_url(url, "policy.url")
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value) and "password@" not in str(caught.value)


def test_what_leaves_the_machine_in_the_clear_is_warned_of() -> None:
    for url in ("ws://localhost:8000", "ws://127.0.0.1:8000", "ws://[::1]:8000", "wss://gpu.example"):
        check_url(url, "url")
        assert not url_warning(url, has_key=True)
    assert "in the clear" in url_warning("ws://10.0.0.3:8000", has_key=False)
    assert "the key" in url_warning("ws://gpu.example:8000", has_key=True)
