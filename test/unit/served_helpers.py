"""A policy server that speaks openpi's protocol, for tests: ``python served_helpers.py PORT MODE_FILE`` in a process of
its own, or ``serving`` in a thread. What it does wrong, if anything, is one of ``MODES``, read anew for each request.

Its messages are packed and read here, by what openpi's own do, and not by what is tested.
"""

from __future__ import annotations

import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

HORIZON, DIM = 10, 3
TRACEBACK = "Traceback (most recent call last):\n  File \"serve.py\", line 1, in infer\nKeyError: 'observation/state'\n"
MODES = (
    "good noisy other text shape nan integers missing nested huge fragments objects garbage twice silent closes "
    "silent_start text_start"
).split()


def pack(value: Any) -> bytes:
    return msgpack.packb(value, default=_pack_array)


def _pack_array(value: Any) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, object_hook=_unpack_array)


def _unpack_array(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"])
    return value


def act(seen: dict[str, Any], mode: str) -> np.ndarray:
    """A chunk near the state, which depends a little on pictures and instruction: float32 [HORIZON, DIM]."""
    state = np.concatenate([np.asarray(seen["joints"]), np.asarray(seen["gripper"])])
    bright = 1e-4 * np.mean([seen[name].mean() for name in ("base_rgb", "wrist_rgb")])
    swing = 0.02 * np.sin(np.arange(HORIZON)[:, None] / 3 + np.arange(DIM)) + bright + 1e-4 * len(seen["prompt"])
    noise = 0.01 * np.random.default_rng().normal(size=(HORIZON, DIM)) if mode == "noisy" else 0.0
    return (state + swing + noise + (0.3 if mode == "other" else 0.0)).astype(np.float32)


def answer(connection: ServerConnection, mode: str, seen: dict[str, Any]) -> None:
    actions, begun_s = act(seen, mode), time.perf_counter()
    wrong = {
        "shape": {"actions": actions[:, :2]},
        "nan": {"actions": actions + np.where(np.arange(len(actions))[:, None] == 1, np.nan, 0.0)},
        "integers": {"actions": actions.astype(np.int64)},
        "missing": {"action": actions},
        "nested": {"actions": [[[[0.0] * DIM]]] * HORIZON},
    }
    if mode == "text":
        connection.send(TRACEBACK)
        return connection.close(1011, "Internal server error")
    if mode == "huge":  # the head of a frame of 1 GB, and a little of it
        return connection.socket.sendall(b"\x82\x7f" + (1 << 30).to_bytes(8, "big") + bytes(1 << 16))
    if mode == "fragments":
        return connection.send(bytes(1 << 20) for _ in range(1 << 10))
    if mode == "objects":
        data = {b"__ndarray__": True, b"data": b"x" * 8, b"dtype": "|O", b"shape": [1]}
        return connection.send(msgpack.packb({"actions": data}))
    if mode == "garbage":
        return connection.send(b"\xc1" + os.urandom(100))
    if mode == "silent":
        return None
    if mode == "closes":
        return connection.close(1001, "going away")
    timing = {"infer_ms": np.float64(1e3 * (time.perf_counter() - begun_s))}
    for _ in range(2 if mode == "twice" else 1):
        connection.send(pack(wrong.get(mode, {"actions": actions}) | {"state": actions[0], "server_timing": timing}))


def handler(mode: Callable[[], str], seen: list[dict[str, Any]]) -> Callable[[ServerConnection], None]:
    def handle(connection: ServerConnection) -> None:
        if mode() == "silent_start":
            return connection.wait_closed(30)
        if mode() == "text_start":
            return connection.send(TRACEBACK)
        connection.send(pack({"reset_pose": [0.0] * DIM, "step": np.int64(7)}))
        try:
            for data in connection:
                seen.append(unpack(data))
                answer(connection, mode(), seen[-1])
        except (ConnectionClosed, OSError):
            pass

    return handle


class Served:
    """What a running server does, and what it was asked."""

    def __init__(self) -> None:
        self.mode, self.port, self.seen = "good", 0, list[dict[str, Any]]()
        self.headers: list[dict[str, str]] = []

    def url(self, scheme: str = "ws") -> str:
        return f"{scheme}://localhost:{self.port}"


@contextmanager
def serving(port: int = 0, key: str = "", context: ssl.SSLContext | None = None) -> Iterator[Served]:
    """A server in this process; with ``key`` it turns away whoever doesn't bring that."""
    served = Served()

    def check(connection: ServerConnection, request: Any) -> Any:
        served.headers.append(dict(request.headers.raw_items()))
        if key and request.headers.get("Authorization") != f"Api-Key {key}":
            return connection.respond(HTTPStatus.UNAUTHORIZED, "no\n")
        return None

    server = serve(
        handler(lambda: served.mode, served.seen),
        "localhost",
        port,
        compression=None,
        max_size=None,
        ssl=context,
        process_request=check,
        close_timeout=0.1,
    )
    served.port = server.socket.getsockname()[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()


def main(port: int, mode_file: Path) -> None:
    with serve(handler(mode_file.read_text, []), "localhost", port, compression=None, max_size=None) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
