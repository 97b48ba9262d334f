"""Messages of the link between the nodes, for one worker thread: the newest waits, an older one that still did is
dropped."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rclpy.publisher import Publisher
from std_msgs.msg import UInt8MultiArray

from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.managed import Role
from vla_ros.ros.problems import Problems
from vla_ros.ros.threads import ended
from vla_ros.topics import Topic
from vla_ros.wire import open_message, sign


@dataclass(frozen=True)
class Mail:
    """``data`` came at ``arrived_ns``."""

    arrived_ns: int
    data: bytes


class Mailbox:
    """What comes on ``topic`` of ``role``, while ``is_open``; ``work`` runs in a thread of its own and iterates over
    this. With a ``key`` only what is signed with it is taken."""

    def __init__(
        self,
        role: Role,
        topic: Topic,
        kind: str,
        problems: Problems,
        work: Callable[[], None],
        is_open: bool = True,
        key: bytes = b"",
    ) -> None:
        self.is_open = is_open
        self._key = key
        self._kind = kind
        self._source = topic.name.rpartition("/")[2]
        self._topic = role.topic(topic.name)
        self._problems = problems
        self._newest: Mail | None = None
        self._has_news = False
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=work, name=f"{self._source}s", daemon=True)
        role.subscribe(topic, self._on_message)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the work in progress has ended."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        ended(self._thread)

    def ring(self) -> None:
        """Wake the worker without a message."""
        with self._changed:
            self._has_news = True
            self._changed.notify()

    def refuse(self, error: ValueError) -> None:
        """A message cannot be used."""
        self._problems.report(self._source, f"{self._source} on '{self._topic}' refused: {error}")

    def __iter__(self) -> Iterator[Mail | None]:
        """Waits for each: a message, or None where somebody has rung."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_news or self._is_closing)
                if self._is_closing:
                    return
                self._has_news = False
                mail, self._newest = self._newest, None
            yield mail

    def _on_message(self, msg: UInt8MultiArray) -> None:
        if not self.is_open:
            return
        now_ns = steady_now_ns()
        try:  # or garbage would displace a message that still waits
            mail = Mail(now_ns, open_message(bytes(msg.data), self._kind, self._key))
        except ValueError as error:
            return self.refuse(error)
        with self._changed:
            self._newest = mail
        self.ring()


def send(publisher: Publisher, data: bytes, key: bytes = b"") -> None:
    """Publish bytes on the link, signed where there is a key."""
    payload = array("B")
    payload.frombytes(sign(data, key))
    publisher.publish(UInt8MultiArray(data=payload))
