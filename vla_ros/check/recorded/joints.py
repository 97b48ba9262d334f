"""Each joint's positions and commands against its limits and each other: units, signs, and what doesn't move."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vla_ros.check.finding import Part
from vla_ros.check.recorded.seen import RecordingSeen, Travel
from vla_ros.check.sensors import BEYOND_SHARE
from vla_ros.recordings.plausible import BEYOND, SHARE
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import JointConfig
from vla_ros.strict import listed

STILL_SHARE, MOVED_SHARE = 0.001, 0.02
"""Of a joint's travel: at most, where it stands still; at least, where it moves."""
FAR_SHARE = 0.25
"""Of it, where commands are far from what is measured."""
AGAINST = -0.5
"""Commands and measurement that go together less than this are of opposite signs."""


def judge_joints(robot: RobotConfig, used: Sequence[RecordingSeen]) -> Part:
    """One finding for each joint, of the worst that there is to say."""
    part = Part("joints")
    for index, joint in enumerate(robot.joints):
        _judge_joint(part, index, joint, bool(robot.turns[index]), used)
    return part


def _judge_joint(part: Part, index: int, joint: JointConfig, turns: bool, used: Sequence[RecordingSeen]) -> None:
    travel = joint.upper - joint.lower
    measured, commanded = (_range([getattr(one, name) for one in used], index) for name in ("measured", "commanded"))
    got = f"measured {_said(measured)}, commanded {_said(commanded)}; limits {joint.lower:.2f} to {joint.upper:.2f}"
    if joint.fixed:
        got = f"measured {_said(measured)}; fixed"
    beyond = [one.name for one in used if any(_is_beyond(each, index) for each in (one.measured, one.commanded))]
    against = [one.name for one in used if one.pairs.correlation[index] < AGAINST]
    moved, wanted = np.ptp(measured), np.ptp(commanded)
    apart = max((one.pairs.apart[index] for one in used), default=0.0)
    if not np.isfinite(moved):
        part.fail(
            joint.name, "never measured", "its position", "joint names in the robot file, or rename in joint_states"
        )
    elif beyond:
        expected = f"within its limits{_where(beyond, used)}"
        part.fail(joint.name, got, expected, _unit(joint, measured, commanded))
    elif joint.fixed:
        part.ok(joint.name, got)
    elif against:
        fix = "its sign: driver, rename in the robot file, or sign: -1 in a space"
        part.fail(joint.name, f"{got}; it goes against its commands", f"with them{_where(against, used)}", fix)
    elif wanted > MOVED_SHARE * travel and moved < STILL_SHARE * travel:
        part.fail(
            joint.name,
            f"{got}; it is commanded and stands still",
            "a joint that follows",
            "its encoder, or its driver's names",
        )
    elif moved > MOVED_SHARE * travel and wanted < STILL_SHARE * travel:
        part.fail(
            joint.name,
            f"{got}; it moves and its commands don't",
            "commands that say so",
            "which topic the commands are on, or the space",
        )
    elif not turns and apart > FAR_SHARE * travel:
        part.warn(
            joint.name,
            f"{got}; {apart:.2f} apart on average",
            "commands near what is measured",
            "zero and unit of both, or who drives it",
        )
    elif max(moved, wanted) < STILL_SHARE * travel:
        part.warn(joint.name, f"{got}; it never moves", "some motion", "nothing, where the tasks need none of it")
    elif not turns and (out := _out(joint, measured, commanded)) > BEYOND_SHARE * travel:
        part.warn(
            joint.name,
            f"{got}; {out:.2f} beyond",
            "within its limits",
            "limits in the robot file: commands are bounded by them",
        )
    else:
        part.ok(joint.name, got)


def _range(each: Sequence[Travel], index: int) -> tuple[float, float]:
    """Over all recordings; not a number where there is nothing."""
    lowest, highest = min(one.lowest[index] for one in each), max(one.highest[index] for one in each)
    return (float(lowest), float(highest)) if lowest <= highest else (math.nan, math.nan)


def _said(span: tuple[float, float]) -> str:
    low, high = (round(end, 2) + 0.0 for end in span)  # no -0.00
    return f"{low:.2f} to {high:.2f}" if math.isfinite(low) else "never"


def _is_beyond(travel: Travel, index: int) -> bool:
    most = SHARE * travel.num[index]
    return bool(travel.num_below[index] > most or travel.num_above[index] > most)


def _out(joint: JointConfig, *spans: tuple[float, float]) -> float:
    return max((max(joint.lower - low, high - joint.upper) for low, high in spans if math.isfinite(low)), default=0.0)


def _unit(joint: JointConfig, *spans: tuple[float, float]) -> str:
    worst = max((abs(end) for span in spans for end in span if math.isfinite(end)), default=0.0)
    slack = BEYOND * (joint.upper - joint.lower)
    degrees = worst > 2 * math.pi and math.radians(worst) <= max(-joint.lower, joint.upper) + slack
    what = "these look like degrees" if degrees else "another unit, range or joint"
    return f"{what}: --space says what a set's numbers mean; a bag's are in rad and m"


def _where(names: Sequence[str], used: Sequence[RecordingSeen]) -> str:
    return "" if len(names) == len(used) else f"; of {listed(list(names))} they are not"
