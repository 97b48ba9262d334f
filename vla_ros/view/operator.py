"""The page's node: it reads a robot's topics for the page, and sends what operators ask for."""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from rclpy.publisher import Publisher
from std_msgs.msg import Bool, String

from vla_ros import topics
from vla_ros.ros.declare import declare_and_read
from vla_ros.ros.endpoints import make_publisher, subscribe
from vla_ros.ros.managed import Role
from vla_ros.ros.rivals import UNKNOWN
from vla_ros.ros.robot_description import load_robot_in_graph
from vla_ros.share import robot_file
from vla_ros.strict import one_line
from vla_ros.teleop.jog import Drive
from vla_ros.teleop.node import PERIOD_S, TeleopNode, leader_refusal
from vla_ros.topics import Qos, Topic
from vla_ros.types import Mode
from vla_ros.units import MS_PER_NS
from vla_ros.urdf import parse_urdf
from vla_ros.view.access import make_access
from vla_ros.view.acts import INSTRUCT, JOG, MARK, STOP, Act
from vla_ros.view.board import Board
from vla_ros.view.cameras import Cameras
from vla_ros.view.hearing import Hearing
from vla_ros.view.params import ViewParams
from vla_ros.view.scene import describe, draw
from vla_ros.view.server import Handlers, PageServer, Viewer

BOARD_PERIOD_S = 0.25
# A slider that isn't heard for longer is let go: its page, or the way from it, may be what has ended.
JOG_PATIENCE_S = 0.3
# A page goes on sending a stop until it sees it: one press.
STOP_AGAIN_S = 2.0
# Who asks for a reset this soon after a stop has not seen it.
UNSEEN_S = 0.5
MAX_WAITING = 100
"""How many acts may wait to be done."""


class ViewNode(TeleopNode):
    """``run`` does what operators ask for and tells them how it goes, in the thread that calls it; the emergency stop
    alone goes out of the server's own, past all of that, as a DDS participant of its own."""

    def __init__(self) -> None:
        super().__init__("vla_view")
        params = declare_and_read(self, ViewParams)
        access = make_access(params.view_address, params.view_token_file, params.view_read_only)
        path = robot_file(params.robot)
        self._stop_role = Role(self, "stop", is_apart=True)
        self.follow(load_robot_in_graph(self, path))
        self._drive = Drive(self.robot, PERIOD_S)
        self._shares = np.zeros(self.robot.num_joints)
        self._jogged_s = 0.0
        self._jogger: Viewer | None = None
        self._has_pressed = False
        self._asker: Viewer | None = None
        self._stopper: Viewer | None = None
        self._stopped_s = self._pressed_s = -math.inf
        # Not a SimpleQueue: a signal that interrupts its wait at the very end of the time has it wait for ever.
        self._acts: queue.Queue[tuple[Viewer, Act, float]] = queue.Queue(MAX_WAITING)
        self._jog_refusal = leader_refusal(self.robot)
        self.board = Board()
        self.board.can_jog = not self._jog_refusal
        self._tasks = make_publisher(self, topics.TASK)
        self._marks = make_publisher(self, topics.EPISODE_MARKER)
        self.hearing = Hearing(self, self.robot, self.board)
        handlers = Handlers(self._on_stop, self._on_act)
        self.server = PageServer(params.view_address, params.view_port, access, handlers)
        self._cameras = Cameras(self, self.robot, self.server.publish, lambda: self.server.num_viewers > 0)
        self.server.publish("scene", json.dumps(draw(path, self.robot)))
        if self.robot.urdf_topic:
            subscribe(self, Topic(self.robot.urdf_topic, topics.STRING, Qos.LATCHED), self._on_urdf)

    def make_stop(self) -> Publisher:
        return self._stop_role.publisher(topics.ESTOP)

    @property
    def known_mode(self) -> str:
        """The mode; empty where nobody says it any more."""
        return "" if self.hearing.has_gone else self.mode

    def run(self, stop: threading.Event, show: Callable[[str], object]) -> None:
        """Until ``stop`` is set; ``show`` gets the page's address."""
        self.server.start()
        self._cameras.start()
        self.get_logger().info(f"the operator's page is at {self.server.url}")
        show(self.server.url)
        try:
            self._loop(stop)
        finally:
            self.server.stop()
            self._cameras.stop()
            self._stop_role.stop()

    def _loop(self, stop: threading.Event) -> None:
        deadline_s, board_s, shown = time.monotonic(), 0.0, ""
        while not stop.is_set():
            deadline_s = max(deadline_s + PERIOD_S, time.monotonic())
            self._obey(deadline_s)
            now_s = time.monotonic()
            self._jog(now_s)
            self.server.publish("pose", json.dumps(self._pose()))
            self.board.set_mode(self.known_mode)
            if self.board.mode != shown or now_s - board_s >= BOARD_PERIOD_S:
                if self.board.mode != shown:  # a chunk of another drive tells nothing of this one
                    self.hearing.observed_ns = None
                board_s, shown = now_s, self.board.mode
                self._tell()

    def _obey(self, deadline_s: float) -> None:
        """What is asked for until ``deadline_s``, and what has been asked for by then."""
        with suppress(queue.Empty):
            for _ in range(MAX_WAITING):  # others than who floods it want to see something, too
                left_s = deadline_s - time.monotonic()
                self._do(*self._acts.get(block=left_s > 0, timeout=max(left_s, 0.0)))

    def _jog(self, now_s: float) -> None:
        if now_s - self._jogged_s > JOG_PATIENCE_S:
            self._shares[:] = 0.0
        if self._jogger is not None and not self.server.has(self._jogger):
            self._note(self._jogger, "has left while jogging: hold")
            self._drive.release("hold")
            self._jogger = None
        if self._drive.is_driving and self._shares.any():
            self._drive.jog.push(self._shares)
        target = self._drive.tick(self.mode, now_s)
        if target is not None:
            self.publish(target)
        if time.monotonic() - self._pressed_s < UNSEEN_S:
            self._call_off()
        self.ask(self._drive, now_s)
        self.hear(self._drive, now_s)
        for line in self._drive.lines:
            self.board.note(topics.POLICY_NODE, line)
            if self._asker is not None:
                self.server.tell(self._asker, line)
        self._drive.lines.clear()
        if not self._drive.is_driving:
            self._jogger = None
        self.board.jogger = "" if self._jogger is None else self._jogger.origin

    def _tell(self) -> None:
        board = self.board
        board.is_recorded = self._marks.get_subscription_count() > 0
        board.num_viewers = self.server.num_viewers
        joints = {"joints": self.problem} if self.problem else {}
        board.set_faults("page", self._cameras.faults() | self.hearing.faults() | joints)
        self.server.publish("board", json.dumps(board.message()))
        if self.hearing.chunk is not None:
            self.server.publish("chunk", self.hearing.chunk)
            self.hearing.chunk = None

    def _pose(self) -> dict[str, Any]:
        hearing, positions = self.hearing, self.fresh_positions()
        period_ms, hearing.period_ms = hearing.period_ms, None
        answer_ms, hearing.answer_ms = hearing.answer_ms, None
        age_ms = None
        if hearing.observed_ns is not None and self.mode == Mode.POLICY:
            age_ms = (self.get_clock().now().nanoseconds - hearing.observed_ns) * MS_PER_NS
        return {
            "kind": "pose", "t": time.time(), "mode": self.known_mode,
            "joints": None if positions is None else _rounded(positions),
            "command": None if hearing.command is None else _rounded(hearing.command),
            "period_ms": period_ms, "answer_ms": answer_ms, "age_ms": age_ms,
        }  # fmt: skip

    def _on_urdf(self, msg: String) -> None:
        try:
            urdf = parse_urdf(msg.data, f"the URDF on topic '{self.robot.urdf_topic}'")
        except ValueError as error:
            return self.board.note(self.robot.urdf_topic, one_line(error))
        self.server.publish("scene", json.dumps(describe(self.robot, urdf, None)))

    def _on_stop(self, viewer: Viewer) -> None:
        """In the server's thread."""
        self._estop.publish(Bool(data=True))
        self._has_pressed, self._pressed_s = True, time.monotonic()
        viewer.post("stopped", json.dumps({"kind": "stopped"}))
        with suppress(ValueError):
            self._on_act(viewer, Act(STOP))

    def _on_act(self, viewer: Viewer, act: Act) -> None:
        """In the server's thread. Raises ValueError where too many wait."""
        try:
            self._acts.put_nowait((viewer, act, time.monotonic()))
        except queue.Full:
            raise ValueError("too much is asked for at once; wait a moment") from None

    def _do(self, viewer: Viewer, act: Act, came_s: float) -> None:
        """What a viewer asked for at ``came_s``."""
        if act.kind == JOG:
            return self._aim(viewer, act)
        if act.kind == STOP:
            return self._stopped(viewer)
        self._note(viewer, act.line)
        self._asker = viewer
        if act.kind == INSTRUCT:
            self.board.set_task(act.text)
            self._tasks.publish(String(data=act.text))
        elif act.kind == MARK:
            self._mark(viewer, act.text)
        elif act.kind == "takeover":
            self._take_over(viewer)
        elif act.kind == "reset":
            self._reset(viewer, came_s)
        else:
            self._drive.release(act.kind)

    def _stopped(self, viewer: Viewer) -> None:
        self._call_off()
        now_s = time.monotonic()
        if now_s - self._stopped_s > STOP_AGAIN_S or viewer is not self._stopper:
            self._note(viewer, STOP)
        self._stopper, self._stopped_s = viewer, now_s

    def _call_off(self) -> None:
        """A reset or an engage that somebody asked for before a stop, or without having seen it."""
        self._drive.release()
        self._drive.requests.clear()
        self._due_s.clear()

    def _note(self, viewer: Viewer, text: str) -> None:
        self.get_logger().info(f"{viewer.origin}: {text}")
        self.board.note(viewer.origin, text)

    def _take_over(self, viewer: Viewer) -> None:
        if self._jog_refusal:
            return self.server.tell(viewer, self._jog_refusal)
        if self._drive.take_over(self.mode, self.fresh_positions(), time.monotonic()):
            self._jogger = viewer
            self._shares[:] = 0.0

    def _aim(self, viewer: Viewer, act: Act) -> None:
        if viewer is not self._jogger:
            return self.server.tell(viewer, "take over first: somebody else drives, or nobody")
        if act.joint not in self.robot.driven_names:
            return self.server.tell(viewer, "no such joint is driven; reload the page")
        self._shares[self.robot.joint_names.index(act.joint)] = act.share
        self._jogged_s = time.monotonic()

    def _reset(self, viewer: Viewer, came_s: float) -> None:
        if came_s - self._pressed_s < UNSEEN_S:
            return self.server.tell(viewer, "not reset: a stop was pressed at the same moment")
        # Another's emergency stop is not a page's to let go; another page's is, which may have ended.
        known = self.get_publishers_info_by_topic(self._estop.topic_name)
        others = {one.node_name for one in known} - {self._stop_role.node.get_name(), UNKNOWN}
        is_ours, self._has_pressed = self._has_pressed or not others, False
        self._drive.release(*(["release_estop"] if is_ours else []), "reset_estop")

    def _mark(self, viewer: Viewer, mark: str) -> None:
        if self.board.has_episode == (mark == "start"):
            why = "an episode is under way" if self.board.has_episode else "no episode is under way; start one"
            return self.server.tell(viewer, why)
        self.board.has_episode = mark == "start"
        self._marks.publish(String(data=mark))


def _rounded(values: np.ndarray) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in values.tolist()]
