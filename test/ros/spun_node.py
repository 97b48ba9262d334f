"""A node in the test's own process, spun by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from waiting import PATIENCE_S, Lasting, wait_until

WAKE_S = 0.1


class SpunNode(Lasting):
    """``node`` and the thread that spins it, in which its entities are made and destroyed: rclpy's executor ends where
    another thread destroys one while it gathers what to wait for. An exception in a callback ends it, too, and is
    raised by whoever waits for something, or by ``close``."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._error: Exception | None = None
        self._stopping = threading.Event()
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name=node.get_name(), daemon=True)
        super().__init__()

    @property
    def ended_by(self) -> Exception | None:
        return self._error

    def start(self) -> None:
        """Once what it hears has its place."""
        self._thread.start()

    def do(self, act: Callable[..., Any], *args: Any) -> Any:
        """What ``act`` returns, or raises, in the thread that spins the node."""
        if threading.current_thread() is self._thread:
            return act(*args)
        done: Future[Any] = Future()
        self._executor.create_task(_answer, done, act, *args)
        wait_until(lambda: wait([done], WAKE_S).done, f"{act.__name__} in the thread of '{self.node.get_name()}'")
        return done.result()

    @contextmanager
    def publishing(self, kind: type, topic: str, profile: QoSProfile | int) -> Iterator[Publisher]:
        """A publisher that is gone after the block."""
        publisher = self.do(self.node.create_publisher, kind, topic, profile)
        try:
            yield publisher
        finally:
            self.do(self.node.destroy_publisher, publisher)

    @contextmanager
    def hearing(
        self, kind: type, topic: str, callback: Callable[[Any], Any], profile: QoSProfile | int
    ) -> Iterator[None]:
        """``callback`` gets what is published in the block."""
        subscription = self.do(self.node.create_subscription, kind, topic, callback, profile)
        try:
            yield
        finally:
            self.do(self.node.destroy_subscription, subscription)

    def close(self) -> None:
        super().close()
        if self._thread.is_alive():
            # By a task: a flag alone would not wake the thread, and to shut the executor down takes away what does.
            self._executor.create_task(self._stopping.set)
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive(), f"a callback of '{self.node.get_name()}' does not end"
        self._executor.shutdown()
        self.node.destroy_node()
        if self._error is not None:
            raise self._error

    def _spin(self) -> None:
        try:
            while not self._stopping.is_set():
                self._executor.spin_once()
        except Exception as error:
            self._error = error


def _answer(done: Future[Any], act: Callable[..., Any], *args: Any) -> None:
    try:
        done.set_result(act(*args))
    except Exception as error:
        done.set_exception(error)
