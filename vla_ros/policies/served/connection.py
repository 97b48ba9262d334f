"""One connection to a policy server that speaks openpi's protocol: a first message says what it serves, then each
request gets an answer. A message of text is what went wrong in the server."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import CloseCode
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from vla_ros.policies.base import PolicyUnavailable
from vla_ros.policies.served.config import SCHEMES
from vla_ros.policies.served.messages import pack, unpack
from vla_ros.strict import explained, one_line, quoted

MAX_ANSWER_BYTES = 16 << 20
MAX_WAITING = 2  # messages that nobody asked for; more are not read
CLOSE_TIMEOUT_S = 0.5
SEND_TIMEOUT_S = 2.0
MIN_KEY_CHARACTERS, MAX_KEY_CHARACTERS = 8, 4096
MAX_SHOWN = 300  # characters of what a server says
# It would log the headers, and with them the key.
_SILENT = logging.Logger("served", logging.CRITICAL + 1)


@dataclass(frozen=True)
class Server:
    """Where a server is, and what it wants to be told: ``api_key`` is empty where it asks for none, ``ca_file`` where
    the system's authorities vouch for it."""

    url: str
    api_key: str = field(default="", repr=False)
    ca_file: str = ""

    @classmethod
    def of(cls, url: str, api_key_file: str, ca_file: str) -> Server:
        """Raises ValueError where the key can't be read."""
        return cls(url, read_key(api_key_file), ca_file)

    def context(self) -> ssl.SSLContext | None:
        """What verifies its certificate. Raises ValueError for a ``ca_file`` that can't be read."""
        if urlsplit(self.url).scheme != "wss":
            return None
        with explained(f"ca_file '{self.ca_file}': ", OSError, after="; give certificates in PEM"):
            return ssl.create_default_context(cafile=os.path.expanduser(self.ca_file) if self.ca_file else None)


def read_key(file: str) -> str:
    """The key in a file, white space around it left out; empty without a file. Raises ValueError, which never shows it,
    where it can't be read or can't be sent."""
    if not file:
        return ""
    where = f"api_key_file '{file}'"
    with explained(f"{where}: ", OSError, after="; give the file that holds the server's key"):
        with Path(file).expanduser().open("rb") as opened:
            data = opened.read(MAX_KEY_CHARACTERS + 1).strip()
    if not MIN_KEY_CHARACTERS <= len(data) <= MAX_KEY_CHARACTERS:
        raise ValueError(f"{where} holds {len(data)} bytes; expected {MIN_KEY_CHARACTERS} to {MAX_KEY_CHARACTERS}")
    if not all(0x21 <= byte <= 0x7E for byte in data):
        raise ValueError(f"{where} holds more than one word of ASCII; expected the key and nothing else")
    return data.decode("ascii")


class Connection:
    """To be asked by one thread at a time."""

    def __init__(self, server: Server, websocket: ClientConnection) -> None:
        self._url, self._websocket = server.url, websocket

    @property
    def is_open(self) -> bool:
        return self._websocket.state is State.OPEN

    def ask(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to ``message``. Raises PolicyUnavailable, in one line that names the server, where none comes in
        time or it is none; nothing more is to be asked over this connection then, for its answer may come yet."""
        deadline_s = time.monotonic() + timeout_s
        if self._has_news():
            raise PolicyUnavailable(f"{self._url} said something that it was not asked; expected an answer to each")
        with _named(self._url, timeout_s):
            self._websocket.send(pack(message))
        return self.receive(max(0.0, deadline_s - time.monotonic()), timeout_s)

    def receive(self, wait_s: float, timeout_s: float) -> dict[str, Any]:
        """The next message, waited for ``wait_s``, what is left of ``timeout_s``; raises as ``ask`` does."""
        with _named(self._url, timeout_s):
            data = self._websocket.recv(timeout=wait_s)
        if isinstance(data, str):
            lines = [line for line in data.splitlines() if line.strip()]
            says = quoted(lines[-1].strip(), MAX_SHOWN) if lines else "nothing"
            raise PolicyUnavailable(f"{self._url} failed and says: {says}")
        with _unusable(self._url):
            return unpack(data)

    def answers_ping(self, timeout_s: float) -> bool:
        """Whether it shows in time that it is there; False where it has gone, too."""
        try:
            return self._websocket.ping().wait(timeout_s)
        except (WebSocketException, OSError):
            return False

    def _has_news(self) -> bool:
        with _named(self._url, 0.0):
            try:
                self._websocket.recv(timeout=0)
            except TimeoutError:
                return False
        return True


@contextmanager
def connected(server: Server, timeout_s: float) -> Iterator[Connection]:
    """A connection whose server has said what it serves. Raises PolicyUnavailable as ``Connection.ask`` does."""
    parts, context, deadline_s = urlsplit(server.url), server.context(), time.monotonic() + timeout_s
    headers = {"Authorization": f"Api-Key {server.api_key}"} if server.api_key else {}
    with ExitStack() as stack:
        with _named(server.url, timeout_s):
            # A socket of our own: no proxy, and no redirection to somebody else.
            address = (parts.hostname or "", parts.port or SCHEMES[parts.scheme])
            sock = socket.create_connection(address, timeout_s)
            stack.callback(sock.close)
            websocket = stack.enter_context(
                connect(
                    server.url,
                    sock=sock,
                    ssl=context,
                    compression=None,
                    additional_headers=headers,
                    open_timeout=max(0.1, deadline_s - time.monotonic()),
                    close_timeout=CLOSE_TIMEOUT_S,
                    ping_interval=None,  # a server that computes answers none
                    max_size=MAX_ANSWER_BYTES,
                    max_queue=MAX_WAITING,
                    logger=_SILENT,
                )
            )
            # Sending has no limit of its own, where nobody reads at the other end.
            limit = struct.pack("ll", int(SEND_TIMEOUT_S), 0)
            websocket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        connection = Connection(server, websocket)
        connection.receive(max(0.0, deadline_s - time.monotonic()), timeout_s)
        yield connection


@contextmanager
def _unusable(url: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise PolicyUnavailable(f"{url} answered {one_line(error, MAX_SHOWN)}") from error


@contextmanager
def _named(url: str, timeout_s: float) -> Iterator[None]:
    """What goes wrong on the way, in one line."""
    try:
        yield
    except PolicyUnavailable:
        raise
    except (OSError, WebSocketException, ValueError, EOFError) as error:
        raise PolicyUnavailable(f"{url} {_what(error, timeout_s)}") from error


def _what(error: Exception, timeout_s: float) -> str:
    """What the server did, as words that follow its name."""
    if isinstance(error, ConnectionClosed):
        if error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG:
            return f"sent more than {MAX_ANSWER_BYTES >> 20} MB; expected actions, which take less"
        if error.rcvd is None:
            return "closed the connection without a word"
        reason = quoted(error.rcvd.reason, MAX_SHOWN) or "no reason"
        return f"closed the connection (code {error.rcvd.code}: {reason})"
    if isinstance(error, InvalidStatus):
        code = error.response.status_code
        fix = "give its key with api_key_file" if code in (401, 403) else "expected a websocket there"
        return f"refuses with HTTP status {code}; {fix}"
    if isinstance(error, TimeoutError):
        return f"did not answer within {timeout_s:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "refuses the connection; is the server running?"
    if isinstance(error, socket.gaierror):
        return "has a host name that nobody knows"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that can't be verified ({error.verify_message}); give its authority's with ca_file"
    return f"cannot be spoken to: {one_line(getattr(error, 'strerror', None) or error, MAX_SHOWN)}"
