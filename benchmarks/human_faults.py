"""What people do to a robot that drives: messages of a hand, usable or not, the stop, and the arm pushed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import human_ways
from fault_client import FaultClient
from fault_kinds import PATIENCE_S, Fault, Injection, Stage, repeated, too_large
from human_ways import UNUSABLE, Message, Way, whole
from sensor_relay import JOINTS, Pushed

from vla_ros import topics
from vla_ros.types import Mode

NUDGE_RAD = 0.03
NUM_HAND = 10
PUSH_SPEED, FAST_PUSH_SPEED = 0.8, 2.8
"""rad/s. A policy that sees where the arm is goes along with a slow push, within its limits; not with a fast one."""
UNFOLLOWED = f"a human's message on '{topics.TELEOP}' cannot be followed"
TOLD = ("is measured", "max_tracking_error")


def human_faults() -> Mapping[str, Fault]:
    """Every one by its name."""
    stays = (*TOLD, "it rests and is commanded to stay")
    return {
        "emergency stop": Fault(_emergency_stop(False), ("emergency stop on",), (Mode.ESTOP,)),
        "emergency stop, volatile": Fault(_emergency_stop(True), ("emergency stop on",), (Mode.ESTOP,)),
        "emergency stop silent": Fault(_silent_stop, ("nothing came on 'vla_policy/estop'",), (Mode.ESTOP,)),
        "a hand takes over": _takeover(whole),
        "a hand takes over in part": _takeover(human_ways.in_part),
        "a hand sorts joints its way": _takeover(human_ways.in_another_order),
        "a hand goes beyond limits": _takeover(human_ways.beyond_limits),
        "a hand falls silent": Fault(
            repeated(lambda client: client.lead(whole, NUDGE_RAD), NUM_HAND), ("nothing came on 'vla_policy/teleop'",)
        ),
        **{f"hand: {name}": _unusable(way) for name, way in UNUSABLE.items()},
        "hand: 60,000 points": Fault(too_large("teleop", 20), (UNFOLLOWED, "message has")),
        "arm pushed under way": Fault(_pushed(FAST_PUSH_SPEED), TOLD),
        "arm pushed in HOLD": Fault(_in_hold(_pushed(PUSH_SPEED)), stays),
        "driver starts again elsewhere": Fault(_in_hold(_pushed(1e3, silent_s=1.0)), stays),
    }


def _takeover(make: Callable[..., Message]) -> Fault:
    words = (f"a human moves the robot on '{topics.TELEOP}'",)
    return Fault(repeated(lambda client: client.lead(make, NUDGE_RAD)), words, (Mode.TELEOP,))


def _unusable(way: Way) -> Fault:
    """One message is enough to end the policy's drive."""
    return Fault(repeated(lambda client: client.lead(way.make, NUDGE_RAD), 1), (UNFOLLOWED, way.word))


def _pushed(speed: float, silent_s: float = 0.0) -> Injection:
    @contextmanager
    def inject(stage: Stage) -> Iterator[None]:
        stage.relay.spoil[JOINTS] = Pushed(stage.client.robot, speed, silent_s)
        try:
            yield
        finally:
            del stage.relay.spoil[JOINTS]

    return inject


def _in_hold(injection: Injection) -> Injection:
    """The same, once a person has asked the robot to hold."""

    @contextmanager
    def inject(stage: Stage) -> Iterator[None]:
        client = stage.client
        client.trigger(topics.HOLD.name)
        client.wait_until(lambda: client.mode == Mode.HOLD and client.has_stopped, PATIENCE_S)
        with injection(stage):
            yield

    return inject


def _emergency_stop(is_volatile: bool) -> Injection:
    @contextmanager
    def inject(stage: Stage) -> Iterator[None]:
        client = stage.client
        client.press_estop(True, is_volatile)
        try:
            yield
            for service in (topics.ENGAGE, topics.TAKEOVER, topics.RESET_ESTOP):
                if client.trigger(service.name).success:
                    raise ValueError(f"{service} was granted while the emergency stop is pressed")
        finally:
            client.press_estop(False, is_volatile)
        _reset(client)

    return inject


@contextmanager
def _silent_stop(stage: Stage) -> Iterator[None]:
    """Who says that the stop isn't pressed dies, and is started again."""
    stage.client.is_stop_heard = False
    try:
        yield
    finally:
        stage.client.is_stop_heard = True
    _reset(stage.client)


def _reset(client: FaultClient) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not client.trigger(topics.RESET_ESTOP.name).success:
        if time.monotonic() > deadline_s:
            raise ValueError("the emergency stop could not be reset")
