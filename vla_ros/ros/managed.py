"""What both managed nodes share: transitions that say why they failed, autostart, a clean end, helper nodes."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterTypeException, ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from vla_ros.ros.bounded import BoundedExecutor
from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.endpoints import Refuse, hear, make_publisher, subscribe
from vla_ros.ros.security import start_ros
from vla_ros.ros.signals import stop_on_signals
from vla_ros.ros.threads import ended
from vla_ros.strict import one_line
from vla_ros.topics import Topic
from vla_ros.units import NS_PER_S

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
        self.is_configured = self.is_active = self.is_ending = False
        self.role_nodes: dict[str, Node] = {}
        self._loading_ns: int | None = None
        self._failure = "not configured"
        # On Jazzy an invalid transition raises out of spin() and would end the node.
        handler = self._service_change_state.callback
        self._service_change_state.callback = lambda *args: self._change_state(handler, *args)

    @property
    def is_loading(self) -> bool:
        """Whether *configure* runs."""
        return self._loading_ns is not None

    @property
    def failure(self) -> str:
        """Why the node doesn't work; empty where it does, or would if it were active."""
        since_ns = self._loading_ns
        return self._failure if since_ns is None else f"loading for {(steady_now_ns() - since_ns) // NS_PER_S} s"

    def configure(self) -> None:
        """Load and make everything that needs no robot."""

    def activate(self) -> None:
        """Start."""

    def deactivate(self) -> None:
        """Stop."""

    def cleanup(self) -> None:
        """Undo ``configure``, also one that ended half-way."""

    def start_itself(self) -> None:
        """Configure and activate, as ``autostart`` asks for."""
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._loading_ns = steady_now_ns()  # before it looks: whoever ends the node sees that it loads, or is seen
        try:
            is_configured = not self.is_ending and self._succeeds("configure", self.configure)
        finally:
            self._loading_ns = None
        if is_configured:
            self._failure, self.is_configured = "", True
            self.get_logger().info("configured")
            return TransitionCallbackReturn.SUCCESS
        self._succeeds("cleanup", self.cleanup)
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self.is_ending or not self._succeeds("activate", self.activate):
            failure = self._failure
            self._succeeds("deactivate", self.deactivate)
            self._failure = failure
            return TransitionCallbackReturn.FAILURE
        self.is_active, self._failure = True, ""
        self.get_logger().info("active")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.is_active = False
        done = self._succeeds("deactivate", self.deactivate)
        return TransitionCallbackReturn.SUCCESS if done else TransitionCallbackReturn.ERROR

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._failure, self.is_configured = "not configured", False
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

    def destroy_node(self) -> None:
        for node in self.role_nodes.values():
            _destroy(node, self)
        super().destroy_node()
        # rclpy leaves these to the garbage collector; until then whoever finds them calls a node that never answers.
        for name in [name for name in vars(self) if name == "_state_machine" or name.startswith("_service_")]:
            delattr(self, name)

    def _succeeds(self, transition: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except ValueError as error:
            self._failure = one_line(error)
            self.get_logger().error(f"cannot {transition}: {self._failure}")
            return False
        except Exception:  # rclpy would swallow it without a word
            self._failure = f"cannot {transition}: {traceback.format_exc(limit=-1).splitlines()[-1]}"
            self.get_logger().error(f"cannot {transition}:\n{traceback.format_exc()}")
            return False
        return True

    def _change_state(self, handler: Callable[..., Any], request: Any, response: Any) -> Any:
        try:
            return handler(request, response)
        except RCLError as error:
            self.get_logger().error(f"refused transition {request.transition.id}: {one_line(error)}")
            response.success = False
            return response


class _Stop(Future):
    """What an executor spins until. rclpy adds a callback to it for each one that it runs, to be woken up, and forgets
    none: 0.2 GB in an hour. Who sets this result wakes it."""

    def add_done_callback(self, callback: Callable[[Future], None]) -> None:
        pass


class Spinner:
    """An executor of one node in a thread of its own, which a callback that fails does not end."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._executor = BoundedExecutor(context=node.context)
        self._executor.add_node(node)
        self._stopped = _Stop()
        self._thread = threading.Thread(target=self._spin, name=node.get_name(), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """Returns when no callback runs any more, or False where one doesn't end in time."""
        # Only when its thread has ended may the executor be shut down: that takes away the guard which wakes the
        # thread, and where the thread comes to wait for it a moment later, it waits for ever.
        self._stopped.set_result(None)
        self._executor.wake()
        has_ended = ended(self._thread)
        if has_ended:
            self._executor.shutdown()
        return has_ended

    def _spin(self) -> None:
        while self._node.context.ok():
            try:
                return self._executor.spin_until_future_complete(self._stopped)
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

    It takes no remaps by itself: topics are resolved by the owner, whose names users know. A managed owner keeps the
    node for the next role of that name, because each one that is made and destroyed leaves 0.1 MB behind. ``is_apart``:
    as a DDS participant of its own, whose messages don't wait, or get lost, behind those of the process's other topics.
    """

    def __init__(self, owner: Node, role: str, is_apart: bool = False) -> None:
        self._owner = owner
        self._kept = owner.role_nodes if isinstance(owner, ManagedNode) else {}
        self._role = role
        self.node = self._kept.pop(role, None) or rclpy.create_node(
            f"{owner.get_name()}_{role}",
            context=_context_apart() if is_apart else owner.context,
            namespace=owner.get_namespace(),
            use_global_arguments=False,
            start_parameter_services=False,
            parameter_overrides=[NO_TYPE_SERVICE],
            enable_rosout=False,
        )
        self._own_publishers = list(self.node.publishers)
        self._undos: list[Callable[[], None]] = []
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

    def at_end(self, undo: Callable[[], None]) -> None:
        """Call ``undo`` when no callback runs any more."""
        self._undos.append(undo)

    def stop(self) -> None:
        """Returns when no callback runs any more; what was made on the node is gone then. A node whose callback doesn't
        end is left to it."""
        if not self._spinner.stop():
            return
        for undo in self._undos:
            undo()
        for subscription in list(self.node.subscriptions):
            self.node.destroy_subscription(subscription)
        for publisher in list(self.node.publishers):
            if publisher not in self._own_publishers:
                self.node.destroy_publisher(publisher)
        group = self.node.default_callback_group
        group.entities = {entity for entity in group.entities if entity() is not None}  # rclpy itself forgets none
        if isinstance(self._owner, ManagedNode):
            self._kept[self._role] = self.node
        else:
            _destroy(self.node, self._owner)


def _context_apart() -> Context:
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    return context


def _destroy(node: Node, owner: Node) -> None:
    node.destroy_node()
    if node.context is not owner.context:
        node.context.try_shutdown()


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
    spinner.start()
    autostart = threading.Thread(target=node.start_itself, name="autostart", daemon=True)
    if node.get_parameter("autostart").value and not stopping.is_set():
        autostart.start()
    stopping.wait()
    node.is_ending = True
    if node.is_loading:  # which nothing can interrupt; nobody was promised anything yet
        os._exit(0)
    ended(autostart)
    spinner.stop()
    node.close()
    node.destroy_node()
    rclpy.shutdown()
    return 0
