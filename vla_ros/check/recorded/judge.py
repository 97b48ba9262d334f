"""Recordings against what a robot file and a policy expect: a page of what would be wrong before a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros import topics
from vla_ros.check.finding import Finding, Level, Part
from vla_ros.check.recorded.joints import judge_joints
from vla_ros.check.recorded.seen import Pace, RecordingSeen
from vla_ros.check.sensors import ENOUGH_OF_RATE
from vla_ros.recordings.feed import without_numbers
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig
from vla_ros.strict import listed, quoted
from vla_ros.types import Mode

MAX_LINES = 12
"""Of one kind on a page; how many more there are is said."""
MUCH_LEFT_OUT = 0.1
ASPECTS = (
    ("tasks.parquet", "tasks"),
    ("videos/", "videos"),
    ("data/", "rows"),
    ("observation.images", "cameras"),
    ("camera", "cameras"),
)
"""Of a line about a set, by what it names."""
MEANT = (
    "in HOLD or ESTOP",
    "another driver",
    "outside an episode",
    "of failed",
    "of discarded",
    "before their episode",
    "after the last command",
    "takeover",
    "learn_from",
)
"""Why frames are left out where nothing is wrong with them."""
REMEDIES = (
    ("their chunk", "episodes longer than a chunk", "longer episodes, or a policy with shorter chunks"),
    ("without an instruction", "one before the first frame", f"{topics.TASK}, published as an episode begins"),
    ("joint state", "one at least every max_age_s", "joint states above, and max_age_s in the robot file"),
    (
        "image of each",
        "one of each camera together",
        "cameras above, max_age_s and max_camera_skew_s in the robot file",
    ),
    (
        "without an end",
        "success or failure after each start",
        f"{topics.EPISODE_MARKER}: what becomes of them isn't known",
    ),
)
"""Why else: by what the reason says, what was expected and where to fix it."""


Placed = tuple[str, str]
"""A recording's name and a line about it."""


@dataclass(frozen=True)
class TrainingNeeds:
    """``name`` is the policy's; it reads ``camera_names`` and learns chunks of ``horizon`` actions ``chunk_dt_s``
    apart. ``misfit`` is why it can't be this robot's, in one line; empty where it can."""

    name: str
    camera_names: tuple[str, ...]
    horizon: int
    chunk_dt_s: float
    misfit: str = ""


def judge_recordings(
    robot: RobotConfig, needs: TrainingNeeds, seen: Sequence[RecordingSeen], others: Sequence[str] = ()
) -> tuple[Finding, ...]:
    """All findings, in the order of a page; ``others`` are names of what was passed over. ``robot`` has the cameras
    that the policy looks at."""
    used = [one for one in seen if not one.refusal]
    bags = [one for one in used if one.fps is None]
    parts = [_judge_files(seen, others)]
    parts += [_judge_set(one) for one in seen if one.fps is not None]
    if any(one.joints.num for one in used):
        parts.append(judge_joints(robot, used))
    if bags:
        parts.append(_judge_stream("joint states", [one.joints for one in bags], "the driver of the joints"))
        parts += [_judge_camera(camera, bags) for camera in robot.cameras]
        parts += [_judge_commands(output.name, output.set_point_topic, bags) for output in robot.outputs]
    if taken := [one for one in used if one.fps is None or one.joints.num]:
        parts += [_judge_samples(taken), _judge_episodes(taken)]
    parts.append(_judge_needs(robot, needs))
    return tuple(finding for part in parts for finding in part.findings)


def _judge_files(seen: Sequence[RecordingSeen], others: Sequence[str]) -> Part:
    """What there is, and what of it can't be used."""
    part = Part("recordings")
    bags, sets = ([one for one in seen if (one.fps is None) is is_bag] for is_bag in (True, False))
    kinds = [f"{len(bags)} bag{'s' * (len(bags) > 1)}"] if bags else []
    kinds += [f"{len(sets)} LeRobot data set{'s' * (len(sets) > 1)}"] if sets else []
    used = [one for one in seen if not one.refusal]
    if used:
        seconds = sum(one.seconds for one in used)
        part.ok("read", f"{' and '.join(kinds)}{f', {seconds:.1f} s' if seconds else ''}")
    _add(part, Level.FAIL, "refused", [(one.name, one.refusal) for one in seen if one.refusal])
    _add(part, Level.FAIL, "refused", [(one.name, line) for one in seen if one.refusal for line in one.faults])
    _add(part, Level.WARN, "problem", [(one.name, line) for one in bags for line in one.problems])
    silent = [one.name for one in bags if not one.refusal and not one.num_samples]
    if silent and len(silent) < len(used):
        part.warn("samples", f"none in {listed(silent)}", "some in each", "leave them out, or see above what they lack")
    if others:
        part.warn("passed over", listed(list(others)), "bags and LeRobot data sets alone", "name a set's own folder")
    return part


def _judge_set(one: RecordingSeen) -> Part:
    """A data set's format, what of it training refuses, and how regular its rows are."""
    part = Part(f"set {one.name}")
    part.ok("format", f"LeRobot v3, {one.fps:g} rows a second{one.size}")
    for level, lines in ((Level.FAIL, one.faults), (Level.WARN, one.problems), (Level.OK, one.notes)):
        for aspect in dict.fromkeys(map(_aspect, lines)):
            _add(part, level, aspect, [("", line) for line in lines if _aspect(line) == aspect])
    if one.joints.num_gaps:
        got = f"{one.joints.num_gaps} rows come late, {one.joints.longest_ns / 1e9:.2f} s after the one before at most"
        part.warn("times", got, f"{1 / (one.fps or 1):.3g} s", "timestamp and fps of the set")
    return part


def _aspect(line: str) -> str:
    """What of a set a line is about."""
    return next((aspect for what, aspect in ASPECTS if what in line), "joints")


def _judge_camera(camera: CameraConfig, bags: Sequence[RecordingSeen]) -> Part:
    part = _judge_stream(f"camera {camera.name}", [one.cameras[camera.name] for one in bags], f"'{camera.topic}'")
    pace = Pace.merged([one.cameras[camera.name] for one in bags])
    if camera.rate_hz and pace.num_steps and pace.rate_hz < ENOUGH_OF_RATE * camera.rate_hz:
        expected = f"about {camera.rate_hz:g} Hz (rate_hz in the robot file)"
        part.warn("rate", f"{pace.rate_hz:.1f} Hz", expected, "the camera's settings, or load on the recorder")
    still = max(bags, key=lambda one: one.still_s.get(camera.name, 0.0))
    still_s = still.still_s.get(camera.name, 0.0)
    if 0 < camera.max_frozen_s < still_s:
        got = f"the very same pixels for {still_s:.1f} s in {still.name}"
        part.warn(
            "still", got, f"a change within {camera.max_frozen_s:g} s (max_frozen_s)", "its driver: it stood still"
        )
    return part


def _judge_commands(name: str, topic: str, bags: Sequence[RecordingSeen]) -> Part:
    return _judge_stream(f"output {name}", [one.commands[name] for one in bags], f"'{topic}'")


def _judge_stream(name: str, paces: Sequence[Pace], source: str) -> Part:
    """What came of it, how often, with which gaps, and whether its stamps are of any use."""
    part, pace = Part(name), Pace.merged(paces)
    num_without = sum(not one.num for one in paces)
    if not pace.num:
        fix = "robot file and --namespace: what the bags have is said above"
        part.fail("came", f"nothing from {source}", "messages in each bag", fix)
        return part
    got = f"{pace.rate_hz:.1f} Hz, longest step {pace.longest_ns / 1e6:.0f} ms"
    if num_without:
        part.fail("came", f"nothing in {num_without} of {len(paces)} bags", "messages in each bag", source)
    if pace.num_gaps:
        expected = f"a message every {pace.max_gap_s:g} s at least"
        part.warn("rate", f"{got}; {pace.num_gaps} gaps", expected, f"{source}: what lies in a gap teaches nothing")
    else:
        part.ok("rate", got)
    for what, num in (("repeat the one before", pace.num_same), ("go back", pace.num_back)):
        if num:
            level = Level.FAIL if num > 0.5 * pace.num else Level.WARN
            part.add(
                level, "stamps", f"{num} of {pace.num} {what}", "a later stamp each", "the driver, or a second one"
            )
    if pace.delay_s > pace.max_gap_s:
        got = f"stamped {pace.delay_s:.2f} s before it is recorded, on average"
        part.warn("age", got, f"less than {pace.max_gap_s:g} s", "the clocks of both machines, or a faster driver")
    return part


def _judge_samples(used: Sequence[RecordingSeen]) -> Part:
    """What training would make of it."""
    part = Part("samples")
    num = sum(sum(one.num_samples) for one in used)
    left_out = sum((one.num_left_out for one in used), Counter[str]())
    total = num + left_out.total()
    if num:
        part.ok("learned", f"{num} of {total} frames")
    else:
        part.fail("learned", f"none of {total} frames", "some", "why each is left out, below")
    for reason, num_out in left_out.most_common(MAX_LINES):
        is_meant = any(meant in reason for meant in MEANT) or bool(num) and num_out <= MUCH_LEFT_OUT * total
        level = Level.OK if is_meant else Level.WARN
        remedies = [remedy for what, *remedy in REMEDIES if what in reason]
        expected, fix = remedies[0] if remedies else ("few", "what stands above")
        part.add(level, "left out", f"{num_out} {reason}", expected, fix)
    return part


def _judge_episodes(used: Sequence[RecordingSeen]) -> Part:
    """How many, what for, how they ended and who drove."""
    part = Part("episodes")
    sizes = [size for one in used for size in one.num_samples]
    if sizes:
        part.add(
            Level.OK if len(sizes) > 1 else Level.WARN,
            "number",
            f"{len(sizes)} with samples, of {min(sizes)} to {max(sizes)}",
            "at least 2: the last ones are to judge by",
            f"record more, or say where one ends ({topics.EPISODE_MARKER}, episodes=marker)",
        )
    _judge_tasks(part, sum((one.tasks for one in used), Counter[str]()))
    outcomes = sum((one.outcomes for one in used), Counter[str]())
    if outcomes:
        part.ok("ended", ", ".join(f"{num} {text}" for text, num in outcomes.most_common()))
    drivers = sum((one.drivers for one in used), Counter[str]())
    if drivers:
        num_interventions = sum(one.num_interventions for one in used)
        said = ", ".join(f"{num} {driver or 'not recorded'}" for driver, num in drivers.most_common())
        got = f"{said}{f' ({num_interventions} of them interventions)' if num_interventions else ''}"
        fix = "record somebody who shows it, or takes over: its own commands teach a policy its own faults"
        level = Level.WARN if set(drivers) == {Mode.POLICY.value} else Level.OK
        part.add(level, "drivers", f"samples: {got}", "a human's among them", fix)
    return part


def _judge_tasks(part: Part, tasks: Counter[str]) -> None:
    if not tasks:
        fix = f"{topics.TASK}, published as an episode begins, or task_index of a set"
        return part.fail("tasks", "no instruction", "one for each episode", fix)
    texts = [f"'{quoted(text)}' ({num})" for text, num in tasks.most_common(MAX_LINES)]
    more = f" and {len(tasks) - MAX_LINES} more" if len(tasks) > MAX_LINES else ""
    part.ok("tasks", f"{len(tasks)}: {', '.join(texts)}{more}")
    alike: dict[str, list[str]] = {}
    for text in tasks:
        alike.setdefault(" ".join(text.lower().strip(" .!").split()), []).append(text)
    for texts in [texts for texts in alike.values() if len(texts) > 1][:MAX_LINES]:
        part.warn("tasks", f"{listed(texts)} differ in spelling alone", "one way to say one thing", "the recordings")


def _judge_needs(robot: RobotConfig, needs: TrainingNeeds) -> Part:
    part = Part(f"policy {needs.name}")
    if needs.misfit:
        part.fail("fits", *_split(needs.misfit))
    else:
        reads = f"joints {listed(robot.joint_names)}; cameras {listed(needs.camera_names)}"
        part.ok("reads", reads)
        part.ok(
            "chunk",
            f"{needs.horizon} actions, {needs.chunk_dt_s:.3g} s apart: {needs.horizon * needs.chunk_dt_s:.3g} s",
        )
    return part


def _add(part: Part, level: Level, aspect: str, lines: Sequence[Placed]) -> None:
    """A finding for each kind of line, with where it is said first and in how many recordings."""
    kinds: dict[str, list[Placed]] = {}
    for where, line in lines:
        kinds.setdefault(without_numbers(line), []).append((where, line))
    for same in list(kinds.values())[:MAX_LINES]:
        (where, line), more = same[0], len(same) - 1
        got, *others = _split(line)
        place, elsewhere = f"{where}: " if where else "", f" (and in {more} more)" if more else ""
        part.add(level, aspect, f"{place}{got}{elsewhere}", *others)
    if len(kinds) > MAX_LINES:
        part.add(level, aspect, f"{len(kinds) - MAX_LINES} more of other kinds")


def _split(line: str) -> tuple[str, ...]:
    """What was got, what was expected and where to fix it, of a line that says so; empty where it doesn't."""
    got, _, rest = line.partition("; expected ")
    expected, _, fix = rest.partition(": ")
    if not rest and "; " in line:
        got, _, fix = line.rpartition("; ")
    return got, expected, fix
