"""A connection to a policy server that is made again whenever it is lost, by a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from vla_ros.policies.base import PolicyUnavailable
from vla_ros.policies.served.connection import Connection, Server, connected
from vla_ros.strict import one_line

CONNECT_TIMEOUT_S = 5.0
FIRST_DELAY_S, MAX_DELAY_S = 0.2, 2.0  # between two tries to connect, doubled each time
WATCH_PERIOD_S, PING_PERIOD_S = 0.1, 2.0
JOIN_TIMEOUT_S = 2.0

Check = Callable[[Connection], None]


class ServerLink:
    """One server, asked by one thread. ``check`` is done on each new connection before anything else is asked over it,
    and raises PolicyUnavailable where it isn't to be trusted."""

    def __init__(self, server: Server, answer_timeout_s: float) -> None:
        self.check: Check = lambda connection: None
        self._server, self._answer_timeout_s = server, answer_timeout_s
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._trouble = ""
        self._num_asked = 0
        self._is_asking = self._is_closing = False
        self._thread: threading.Thread | None = None

    @property
    def trouble(self) -> str:
        """Why nothing can be asked now; empty where it can, or nobody has tried."""
        return self._trouble

    def start_sync(self) -> None:
        """Connect for the first time. Raises PolicyUnavailable where that fails; it isn't tried again then."""
        if self._is_closing:
            raise PolicyUnavailable(f"{self._server.url} is not connected to any more")
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._keep, name="server", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._connection is not None or self._trouble)
            trouble = self._trouble
        if trouble:
            self.close()
            raise PolicyUnavailable(trouble)

    def close(self) -> None:
        """Ask nothing any more."""
        with self._changed:
            self._is_closing, self._connection = True, None
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(JOIN_TIMEOUT_S)  # one that waits for a first answer is left to end by itself

    def ask(self, message: Mapping[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """The answer, waited for ``timeout_s``, by default the usual time. Raises PolicyUnavailable where there is
        none, at once while there is no connection."""
        self.start_sync()
        connection = self._connection
        if connection is None:
            raise PolicyUnavailable(self._trouble or f"{self._server.url} is being connected to")
        self._is_asking = True
        try:
            return connection.ask(message, self._answer_timeout_s if timeout_s is None else timeout_s)
        except PolicyUnavailable as error:
            self.lose(str(error))
            raise
        finally:
            self._num_asked += 1
            self._is_asking = False

    def lose(self, why: str) -> None:
        """The connection is of no use any more: it is closed, and made again after a while."""
        with self._changed:
            self._connection, self._trouble = None, why
            self._changed.notify_all()

    def _keep(self) -> None:
        delay_s = FIRST_DELAY_S
        while not self._is_closing:
            num_asked = self._num_asked
            try:
                with connected(self._server, CONNECT_TIMEOUT_S) as connection:
                    self.check(connection)
                    with self._changed:
                        if self._is_closing:
                            return
                        self._connection, self._trouble = connection, ""
                        self._changed.notify_all()
                    self._watch(connection)
            except ValueError as error:
                self.lose(str(error))
            except Exception as error:  # the thread must outlive it: nothing else connects again
                self.lose(f"{self._server.url}: {type(error).__name__}: {one_line(error)}")
            if self._num_asked > num_asked + 1:  # of use: the last one failed, those before it didn't
                delay_s = FIRST_DELAY_S
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, delay_s)
            delay_s = min(2 * delay_s, MAX_DELAY_S)

    def _watch(self, connection: Connection) -> None:
        """Returns when ``connection`` isn't used any more; raises PolicyUnavailable where it breaks unasked."""
        next_ping_s = time.monotonic() + PING_PERIOD_S
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._connection is not connection, WATCH_PERIOD_S):
                    return
            if not connection.is_open and not self._is_asking:  # else whoever asks says more
                raise PolicyUnavailable(f"{self._server.url} closed the connection")
            if time.monotonic() < next_ping_s or self._is_asking:
                continue
            num_asked = self._num_asked
            is_there = connection.answers_ping(self._answer_timeout_s)
            if not is_there and not self._is_asking and num_asked == self._num_asked:  # one that computes is silent
                raise PolicyUnavailable(f"{self._server.url} did not answer a ping within {self._answer_timeout_s:g} s")
            next_ping_s = time.monotonic() + PING_PERIOD_S
