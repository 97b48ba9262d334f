"""``vla_ros import ws://…``: ask a policy server what it answers, and write down where it is and what it said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.policies.config import DataConfig
from vla_ros.policies.files import replaced_whole
from vla_ros.policies.importing.declaring import Declaration, assign_cameras, black_slots, declare, refuse_black
from vla_ros.policies.importing.directory import check_free, make_observation, write_answered
from vla_ros.policies.importing.settings import ACTION_OFFSET, CameraSettings
from vla_ros.policies.served.config import TYPE, RequestKeys, ServedConfig, check_url, read_keys
from vla_ros.policies.served.connection import Server, connected
from vla_ros.policies.served.link import CONNECT_TIMEOUT_S
from vla_ros.policies.served.policy import read_actions
from vla_ros.policies.served.processor import ServedProcessor, make_message
from vla_ros.robot import RobotConfig
from vla_ros.spaces.cameras import CameraSlot
from vla_ros.spaces.files import joints_of
from vla_ros.transforms.prompted import PromptedRequest

NUM_RECORDED = 8
# Of an action's number, by its size but at least of 1: another GPU rounds otherwise, a bfloat16 network by a percent.
TOLERANCE = 0.01
MAX_SPREADS = 2.0  # how much further than at import an answer of a server that draws noise may lie


@dataclass(frozen=True)
class ServerAnswers:
    """What the user says besides; ``cameras`` are ``SLOT=NAME``."""

    keys: str | None = None
    space: str | None = None
    cameras: Sequence[str] = ()
    chunk_dt_s: float | None = None
    api_key_file: str = ""
    ca_file: str = ""


@dataclass(frozen=True)
class ServedReport:
    """What was recorded: the size of a chunk, the largest tolerance of its numbers, whether the server repeats itself;
    ``notes`` are lines of what is to be known."""

    url: str
    action_horizon: int
    action_dim: int
    largest_tolerance: float
    is_repeatable: bool
    chunk_dt_s: float
    digest: str
    notes: tuple[str, ...]


def import_served(url: str, out: Path, robot: RobotConfig, answers: ServerAnswers) -> ServedReport:
    """Make the policy directory ``out`` of the server at ``url``.

    Raises ValueError, in one line, for an ``out`` that is in use, a server that can't be reached or doesn't answer with
    actions of the space, and what nobody says.
    """
    check_free(out)
    check_url(url, "SOURCE")
    keys, server = read_keys(answers.keys), Server.of(url, answers.api_key_file, answers.ca_file)
    draft = _draft(url, robot, keys, answers)
    observation = make_observation(draft, robot)
    request = draft.process(observation)
    assert isinstance(request, PromptedRequest)
    recorded = _record(server, draft, request)
    golden, spread = recorded.mean(0), _spread(recorded)
    tolerance = TOLERANCE * np.maximum(1.0, np.abs(recorded).max((0, 1))) + MAX_SPREADS * spread
    rounded = tuple(round(float(each), 6) for each in tolerance)
    with replaced_whole(out) as folder:
        processor = write_answered(folder, draft, observation, golden, action_tolerance=rounded)
    return ServedReport(
        url=url,
        action_horizon=len(golden),
        action_dim=draft.config.action_dim,
        largest_tolerance=float(tolerance.max()),
        is_repeatable=not spread.any(),
        chunk_dt_s=draft.data.chunk_dt_s,
        digest=processor.digest,
        notes=draft.config.notes,
    )


def _draft(url: str, robot_config: RobotConfig, keys: RequestKeys, answers: ServerAnswers) -> ServedProcessor:
    """What makes requests for the server, before its chunks' length is known."""
    robot = replace(joints_of(robot_config), chunk_dt_s=answers.chunk_dt_s or math.nan)
    given = [each.size for each in keys.state]
    sizes = {"state": sum(given) if given and all(given) else None, "action": None}
    declared = declare(answers.space, robot, sizes, (), url)
    chunk_dt_s = answers.chunk_dt_s or declared.file.chunk_dt_s
    if chunk_dt_s is None:
        raise ValueError(f"{url} doesn't say how far apart its actions are; say it with --chunk-dt-s S")
    cameras = {x.name: CameraSettings(x.name, x.height, x.width) for x in robot_config.cameras}
    slots = tuple(each.slot for each in keys.pictures)
    known = [slot for slot in declared.file.cameras if slot.get("key") in slots]
    assigned = assign_cameras(slots, answers.cameras, known, cameras)
    refuse_black(black_slots(slots, assigned, known), "a server")
    keys = _whole(keys, tuple(assigned), declared)
    data = DataConfig(
        joint_names=robot.names,
        cameras=tuple(CameraSlot(each.slot, assigned[each.slot].name) for each in keys.pictures),
        action_horizon=1,
        chunk_dt_s=chunk_dt_s,
        action_offset=ACTION_OFFSET,
        state_history=int(bool(keys.state)),
        normalization="none",
        state=declared.file.state,
        action=declared.file.action,
        joint_limits={name: list(limits) for name, limits in robot.limits.items()},
    ).bind(robot_config)
    config = ServedConfig(
        type=TYPE,
        url=url,
        keys=keys,
        action_horizon=1,
        action_dim=declared.action.size,
        state_dim=declared.state.size,
        action_tolerance=(0.0,) * declared.action.size,
        state_history=data.state_history,
        api_key_file=str(Path(answers.api_key_file).expanduser().resolve()) if answers.api_key_file else "",
        ca_file=str(Path(answers.ca_file).expanduser().resolve()) if answers.ca_file else "",
    )
    return ServedProcessor(config, data, {})


def _whole(keys: RequestKeys, slots: Sequence[str], declared: Declaration) -> RequestKeys:
    """The keys without pictures of slots that have no camera, and with every size of the state."""
    left = declared.state.size - sum(each.size for each in keys.state)
    if left < 1 and not all(each.size for each in keys.state):
        raise ValueError(f"--keys has more than the space's {declared.state.size} numbers of state; give what fits")
    state = tuple(replace(each, size=each.size or left) for each in keys.state)
    return replace(keys, pictures=tuple(each for each in keys.pictures if each.slot in slots), state=state)


def _record(server: Server, draft: ServedProcessor, request: PromptedRequest) -> np.ndarray:
    """What the server answers to the golden request, several times: float32 [answers, horizon, action_dim]."""
    config = draft.config
    message: dict[str, Any] = make_message(config.keys, request.images, request.prompt, request.state)
    recorded: list[np.ndarray] = []
    with connected(server, CONNECT_TIMEOUT_S) as connection:
        for _ in range(NUM_RECORDED):
            actions = read_actions(connection.ask(message, config.first_timeout_s), server.url)
            if actions.shape[1] != config.action_dim:
                got = f"{server.url} gives {actions.shape[1]} numbers for an action"
                raise ValueError(f"{got}, the space has {config.action_dim}: give the space that it was trained with")
            if recorded and actions.shape != recorded[0].shape:
                got = f"{server.url} gives chunks of {len(recorded[0])} and of {len(actions)} actions"
                raise ValueError(f"{got}; expected the same length each time")
            recorded.append(actions)
    return np.stack(recorded)


def _spread(recorded: np.ndarray) -> np.ndarray:
    """How far any answer lies from the mean of the others, at most, for each number of an action."""
    others = (recorded.sum(0) - recorded) / (len(recorded) - 1)
    return np.where((recorded == recorded[0]).all((0, 1)), 0.0, np.abs(recorded - others).max((0, 1)))
