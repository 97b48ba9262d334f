"""What both managed nodes share: transitions that say why they failed, autostart, a clean end, helper nodes."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterTypeException, ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from vla_ros.ros.bounded import BoundedExecutor
from vla_ros.ros.endpoints import Refuse, hear, make_publisher, subscribe
from vla_ros.ros.security import start_ros
from vla_ros.ros.signals import stop_on_signals
from vla_ros.topics import Topic

RCLError = rclpy_implementation.RCLError
ERROR_PERIOD_S = 1.0
NO_TYPE_SERVICE = Parameter("start_type_description_service", value=False)


class ManagedNode(LifecycleNode):
    """A lifecycle node whose ``configure``, ``activate``, ``deactivate`` and ``cleanup`` may raise.

    A ValueError is a user's to fix and is logged as its one line; anything else is logged with its traceback. Either
    way the transition fails and the node stays.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.is_configured = self.is_active = False
        self.failure = "not configured"
        # On Jazzy an invalid transition raises out of spin() and would end the node.
        handler = self._service_change_state.callback
        self._service_change_state.callback = lambda *args: self._change_state(handler, *args)

    def configure(self) -> None:
        """Load and make everything that needs no robot."""

    def activate(self) -> None:
        """Start."""

    def deactivate(self) -> None:
        """Stop."""

    def cleanup(self) -> None:
        """Undo ``configure``, also one that ended half-way."""

    def create_steady_timer(self, period_s: float, callback: Callable[[], None]) -> None:
        """A timer that runs on where ROS time, which may be simulated, stands still."""
        self.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def start_itself(self) -> None:
        """Configure and activate, as ``autostart`` asks for."""
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._succeeds("configure", self.configure):
            self.failure, self.is_configured = "", True
            self.get_logger().info("configured")
            return TransitionCallbackReturn.SUCCESS
        self._succeeds("cleanup", self.cleanup)
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if not self._succeeds("activate", self.activate):
            failure = self.failure
            self._succeeds("deactivate", self.deactivate)
            self.failure = failure
            return TransitionCallbackReturn.FAILURE
        self.is_active, self.failure = True, ""
        self.get_logger().info("active")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.is_active = False
        done = self._succeeds("deactivate", self.deactivate)
        return TransitionCallbackReturn.SUCCESS if done else TransitionCallbackReturn.ERROR

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.failure, self.is_configured = "not configured", False
        done = self._succeeds("cleanup", self.cleanup)
        return TransitionCallbackReturn.SUCCESS if done else TransitionCallbackReturn.ERROR

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    on_error = on_shutdown

    def close(self) -> None:
        """Stop whatever runs, whichever state the node is in."""
        if self.is_active:
            self.is_active = False
            self._succeeds("deactivate", self.deactivate)
        self.is_configured = False
        self._succeeds("cleanup", self.cleanup)

    def _succeeds(self, transition: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except ValueError as error:
            self.failure = str(error)
            self.get_logger().error(f"cannot {transition}: {error}")
            return False
        except Exception:  # rclpy would swallow it without a word
            self.failure = f"cannot {transition}: {traceback.format_exc(limit=-1).splitlines()[-1]}"
            self.get_logger().error(f"cannot {transition}:\n{traceback.format_exc()}")
            return False
        return True

    def _change_state(self, handler: Callable[..., Any], request: Any, response: Any) -> Any:
        try:
            return handler(request, response)
        except RCLError as error:
            self.get_logger().error(f"refused transition {request.transition.id}: {error}")
            response.success = False
            return response


class Spinner:
    """An executor of one node in a thread of its own, which a callback that fails does not end."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._executor = BoundedExecutor(context=node.context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name=node.get_name(), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when no callback runs any more."""
        self._executor.shutdown()
        if self._thread.is_alive():
            self._thread.join()

    def _spin(self) -> None:
        while self._node.context.ok():
            try:
                return self._executor.spin()
            except Exception:  # the emergency stop must be heard after a bug in another callback, too
                line = f"a callback failed:\n{traceback.format_exc()}"
                self._node.get_logger().error(line, throttle_duration_sec=ERROR_PERIOD_S)


@contextmanager
def spinning(node: Node) -> Iterator[None]:
    """``node`` is spun in a thread of its own; none of its callbacks runs any more at the end of the block."""
    spinner = Spinner(node)
    spinner.start()
    try:
        yield
    finally:
        spinner.stop()


class Role:
    """A helper node with a thread of its own, so that no role waits for another's callbacks.

    It takes no remaps by itself: topics are resolved by the owner, whose names users know. ``is_apart``: as a DDS
    participant of its own, whose messages don't wait, or get lost, behind those of the process's other topics.
    """

    def __init__(self, owner: Node, role: str, is_apart: bool = False) -> None:
        self._owner = owner
        self._context = Context() if is_apart else None
        if self._context is not None:
            rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(
            f"{owner.get_name()}_{role}",
            context=self._context or owner.context,
            namespace=owner.get_namespace(),
            use_global_arguments=False,
            start_parameter_services=False,
            parameter_overrides=[NO_TYPE_SERVICE],
            enable_rosout=False,
        )
        self._spinner = Spinner(self.node)

    def topic(self, name: str) -> str:
        """``name`` as the owner resolves it."""
        return self._owner.resolve_topic_name(name)

    def subscribe(
        self,
        topic: Topic,
        callback: Callable[..., None],
        profile: QoSProfile | None = None,
        refuse: Refuse | None = None,
    ) -> None:
        """Listen to a topic as the owner resolves it; ``endpoints.subscribe`` says how."""
        subscribe(self.node, replace(topic, name=self.topic(topic.name)), callback, profile, refuse)

    def hear(self, topic: Topic, callback: Callable[[Any], None], refuse: Refuse) -> None:
        """As ``subscribe``, whatever the publishers' quality of service."""
        hear(self.node, replace(topic, name=self.topic(topic.name)), callback, refuse)

    def publisher(self, topic: Topic) -> Publisher:
        """A publisher on a topic as the owner resolves it."""
        return make_publisher(self.node, replace(topic, name=self.topic(topic.name)))

    def start(self) -> None:
        self._spinner.start()

    def stop(self) -> None:
        """Returns when no callback runs any more; the node is gone then."""
        self._spinner.stop()
        self.node.destroy_node()
        if self._context is not None:
            self._context.try_shutdown()


def run_managed(make_node: Callable[[], ManagedNode], args: list[str] | None = None) -> int:
    """The life of a managed node's process: until SIGINT or SIGTERM. Returns the exit code."""
    stopping = stop_on_signals()
    try:
        start_ros(args)
        node = make_node()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except (InvalidParameterTypeException, ParameterException) as error:
        print(f"unusable parameter: {error}", file=sys.stderr)
        rclpy.shutdown()
        return 2
    spinner = Spinner(node)
    if node.get_parameter("autostart").value and not stopping.is_set():
        node.start_itself()
    spinner.start()
    stopping.wait()
    spinner.stop()
    node.close()
    node.destroy_node()
    rclpy.shutdown()
    return 0
