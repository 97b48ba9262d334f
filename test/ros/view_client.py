"""What a page does, without a browser: a connection to the page's server, and what came over it."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

from child_process import ChildProcess, child_environment
from ros_harness import START_PATIENCE_S
from waiting import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


class PageProcess(ChildProcess):
    """``view_node``; ``host`` is where its page is."""

    def __init__(self, log: Path, **parameters: object) -> None:
        given = {"view_port": 0, **parameters}
        assignments = [part for key, value in given.items() for part in ("-p", f"{key}:={json.dumps(value)}")]
        super().__init__(log, ["vla_ros.view.node", "--ros-args", *assignments], child_environment())
        found = wait_until(lambda: re.search(r"page is at http://([\w.:]+)/", self.log), "its page", START_PATIENCE_S)
        self.host = found[1]


class PageClient:
    """The newest message of each kind; leaving the ``with`` block closes the connection."""

    def __init__(self, page: PageProcess, token: str = "") -> None:
        self.newest: dict[str, Any] = {}
        self.num_pictures = 0
        self._opening = connect(f"ws://{page.host}/socket", max_size=None)
        self._token = token

    def __enter__(self) -> PageClient:
        self._socket = self._opening.__enter__()
        self._socket.send(json.dumps({"token": self._token}))
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()
        wait_until(lambda: {"you", "scene", "pose", "board"} <= self.newest.keys(), "what a page is told first")
        return self

    def __exit__(self, *error: object) -> None:
        self._opening.__exit__(*error)
        self._thread.join()

    @property
    def mode(self) -> str:
        return self.newest["pose"]["mode"]

    @property
    def acts(self) -> list[str]:
        """Who did what, the newest first."""
        return [f"{act['who']}: {act['text']}" for act in self.newest["board"]["acts"]]

    @property
    def origin(self) -> str:
        return self.newest["you"]["origin"]

    def send(self, act: str, **details: object) -> None:
        self._socket.send(json.dumps({"act": act, **details}))

    def _hear(self) -> None:
        try:
            for message in self._socket:
                if isinstance(message, bytes):
                    self.num_pictures += 1
                else:
                    document = json.loads(message)
                    self.newest[document["kind"]] = document
        except ConnectionClosed:
            pass
