"""Signals that end a node's process at a moment of its own choosing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import rclpy
from rclpy.exceptions import ParameterException

from vla_ros.ros.security import start_ros
from vla_ros.strict import explained

ENDING = (signal.SIGINT, signal.SIGTERM)


def stop_on_signals(*others: signal.Signals) -> threading.Event:
    """Set by SIGINT, SIGTERM and ``others``; call it first of all, so that none ends a node in the middle of its start.

    A second signal, which a terminal under launch sends, too, does no harm.
    """
    stopping = threading.Event()
    for number in (*ENDING, *others):
        signal.signal(number, lambda *_: stopping.set())
    _release()
    return stopping


def interrupt_on_signals(*others: signal.Signals) -> None:
    """SIGINT, SIGTERM and ``others`` raise KeyboardInterrupt in the main thread."""
    for number in (*ENDING, *others):
        signal.signal(number, signal.default_int_handler)
    _release()


def _release() -> None:
    """Whoever started this process may have held interrupts until it can handle them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


@contextmanager
def ros_running(args: Sequence[str] | None = None) -> Iterator[None]:
    """ROS from its start to its end. Raises ValueError as ``start_ros`` does, and for a parameter that ROS refuses."""
    start_ros(args)
    try:
        with explained("", ParameterException):
            yield
    finally:
        rclpy.try_shutdown()


def not_a_namespace(namespace: str, error: Exception) -> ValueError:
    """What a user is told whose ``--namespace`` ROS refuses."""
    return ValueError(f"--namespace '{namespace}' is not a valid namespace: {str(error).splitlines()[0]}")
