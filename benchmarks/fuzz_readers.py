"""Every reader of the package, each with a small good sample: what ``fuzz.py`` mutates."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "unit"))

import numpy as np
import pi0_helpers
import served_helpers
import torch
from bag_samples import MCAP, SQLITE, at, image, joint_state, jpeg, string, trajectory, write_bag, write_plain_mcap
from fleet_helpers import stored_result
from fuzz_samples import ROOT, Lines, Make, Sample, make_sample
from fuzz_training import TRAINING
from policy_helpers import CAMERAS, HORIZON, JOINTS, observation, pi_config, policy_processor
from released_helpers import write_run
from rosbags.rosbag2 import CompressionMode
from space_cases import ROBOT as SPACE_ROBOT

from vla_ros.bags.compression import zstd
from vla_ros.bags.definitions import TYPES, serialize
from vla_ros.bags.read import BagReader
from vla_ros.messages.trace import decode_trace
from vla_ros.policies.base import PolicyUnavailable
from vla_ros.policies.directory import infer, load_policy, save_policy
from vla_ros.policies.files import open_policy
from vla_ros.policies.fill import build_policy
from vla_ros.policies.importing.declaring import declare
from vla_ros.policies.importing.lerobot import read_lerobot
from vla_ros.policies.importing.openpi import read_openpi
from vla_ros.policies.importing.settings import CameraSettings, ImportSettings
from vla_ros.policies.pi.released.case import make_input, read_case
from vla_ros.policies.pi.released.config import read_released_config, read_vlm_config
from vla_ros.policies.pi.released.directory import import_run
from vla_ros.policies.pi.released.settings import RobotSettings, processor_config
from vla_ros.policies.pi.released.statistics import read_released_stats
from vla_ros.policies.pi.released.weights import load_released
from vla_ros.policies.pi.request import PiRequest
from vla_ros.policies.pi0.lerobot import import_lerobot
from vla_ros.policies.pi0.openpi import import_openpi
from vla_ros.policies.served.config import read_keys
from vla_ros.policies.served.messages import unpack
from vla_ros.policies.served.policy import read_actions
from vla_ros.record.writing import as_jpeg
from vla_ros.recordings.feed import LEARNED, REPLAYED, Feed
from vla_ros.replay.baseline.record import read_baseline, stored_tolerances
from vla_ros.robot import load_robot
from vla_ros.sim.scene import parse_reset
from vla_ros.spaces.components import RobotJoints
from vla_ros.spaces.kinematics import Chain, strip_urdf
from vla_ros.strict import explained, read_text
from vla_ros.wire import PolicyResult, decode_request, decode_result, encode_request, encode_result

torch.set_num_threads(1)
ROBOT = ROOT / "test" / "data" / "three_joints.yaml"
CHAIN_JOINTS, CHAIN = SPACE_ROBOT, SPACE_ROBOT.kinematics
SHAPES = {"state": (1, len(JOINTS)), "action": (HORIZON, len(JOINTS))}


def _robot(folder: Path) -> Sample:
    return make_sample(folder, "robot.yaml", load_robot, ROBOT.read_bytes())


URDF = """<?xml version="1.0"?><robot name="arm"><link name="world"/><joint name="base" type="revolute">
<limit lower="-1.5" upper="1.5" velocity="1.5" effort="10"/></joint><joint name="shoulder" type="continuous">
<limit lower="0" upper="0" velocity="2.0"/></joint><joint name="wrist" type="prismatic"><limit lower="-0.6" upper="2.5"
velocity="2.0"/></joint></robot>"""


def _urdf(folder: Path) -> Sample:
    sample = make_sample(folder, "arm.urdf", lambda _: load_robot(folder / "robot.yaml"), URDF.encode())
    text = ROBOT.read_text().replace("lower: -0.5, upper: 2.0, max_velocity: 2.0, ", "")
    (folder / "robot.yaml").write_text(f"urdf: arm.urdf\n{text}")
    return sample


def _chain(folder: Path) -> Sample:
    """The links of a policy directory, and a pose of theirs."""

    def read(path: Path) -> None:
        text = strip_urdf(read_text(path), path.name)
        chain = Chain(replace(CHAIN, urdf=text), CHAIN.base, CHAIN.tip, CHAIN_JOINTS.names, CHAIN_JOINTS.limits)
        chain.follow(chain.poses(np.zeros((2, 8))), np.zeros((2, 8)), np.zeros(8), 0.1, with_rotation=True)

    return make_sample(folder, "kinematics.urdf", read, strip_urdf(CHAIN.urdf, "it").encode())


def _policy(name: str, read: Callable[[Path], Any], folder: Path) -> Sample:
    policy_dir = folder / "policy"
    torch.manual_seed(0)
    save_policy(policy_dir, build_policy(pi_config()), policy_processor(pi_config()), observation())
    return make_sample(folder, f"policy/{name}", lambda _: read(policy_dir))


def _load(policy_dir: Path) -> None:
    """As the model node does: it loads and answers its warm-up requests."""
    loaded = load_policy(policy_dir, "cpu")
    for request in loaded.warm_up_requests:
        infer(loaded.policy, request, torch.device("cpu"))


def _open(policy_dir: Path) -> None:
    """As the policy node does."""
    processor = open_policy(policy_dir).processor
    processor.decode(np.zeros((HORIZON, len(JOINTS)), np.float32), observation())
    processor.warm_up_requests(observation())


def _run(name: str, read: Callable[[Path], Any], form: str, folder: Path) -> Sample:
    """Of a released run."""
    write_run(folder)
    return make_sample(folder, name, lambda _: read(folder), form=form)


def _import(folder: Path) -> None:
    out = folder / "out"
    try:
        import_run(str(folder / "run"), out, RobotSettings(JOINTS, CAMERAS, (24, 32), 0.1, "relative"))
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _load_released(folder: Path) -> None:
    load_released(folder / "run", folder / "vlm" / "config.json")


def _read_image_config(folder: Path) -> None:
    released = read_released_config(folder / "run" / "cfg.yaml")
    config = released.with_vlm(read_vlm_config(folder / "vlm" / "config.json"))
    processor_config(config, released, folder / "vlm" / "preprocessor_config.json", (24, 32))


def _pi0_settings() -> ImportSettings:
    cameras = {key: CameraSettings(name, 24, 32) for key, name in pi0_helpers.CAMERAS.items()}
    cameras |= {f"observation.images.{key}": camera for key, camera in cameras.items()}
    return ImportSettings(pi0_helpers.JOINTS, cameras, chunk_dt_s=0.1)


def _lerobot(name: str, folder: Path) -> Sample:
    """Of a checkpoint of LeRobot's pi0.5."""
    written = pi0_helpers.write_lerobot(folder / "checkpoint")
    read = partial(_read_lerobot, written.folder)
    return make_sample(folder, f"checkpoint/{name}", lambda _: read())


def _read_lerobot(folder: Path) -> None:
    import_lerobot(read_lerobot(folder), _pi0_settings())


def _openpi(folder: Path) -> Sample:
    written = pi0_helpers.write_openpi(folder / "checkpoint")
    name = "checkpoint/assets/robot/pick/norm_stats.json"
    return make_sample(folder, name, lambda _: import_openpi(read_openpi(written.folder, None), _pi0_settings()))


def _space(folder: Path) -> Sample:
    robot = RobotJoints(pi0_helpers.JOINTS, {name: (0.0, 1.0) for name in pi0_helpers.JOINTS})
    sizes = {"state": len(robot.names), "action": len(robot.names)}
    sample = make_sample(folder, "space.yaml", lambda path: declare(str(path), robot, sizes, (True,) * 6, "it"), b"")
    pi0_helpers.write_space(sample.path)
    return sample


CASE = ROOT / "test" / "data" / "pi_parity" / "qwen3vl"


def _packaged(name: str, read: Callable[[Path], Any], folder: Path) -> Sample:
    return make_sample(folder, "packaged.yaml", read, (ROOT / name).read_bytes())


def _case(folder: Path) -> Sample:
    released = read_released_config(CASE / "run" / "cfg.yaml")
    config = released.with_vlm(read_vlm_config(CASE / "vlm" / "config.json"))
    data = next(CASE.rglob("case.safetensors")).read_bytes()
    return make_sample(folder, "case.safetensors", lambda path: make_input(read_case(path), config), data)


def _request(folder: Path) -> Sample:
    config = pi_config()
    policy = build_policy(config).eval()
    good = policy_processor(config).process(observation())

    def read(path: Path) -> None:
        message = decode_request(path.read_bytes())
        request = PiRequest.from_tensors(message.tensors, message.metadata)
        policy.check_request(request)
        infer(policy, request, torch.device("cpu"))

    return make_sample(folder, "request", read, encode_request(good))


def _result(folder: Path) -> Sample:
    good = PolicyResult(5, "digest", np.zeros((HORIZON, len(JOINTS)), np.float32), 1.5, {"prefix": 0.5})
    return make_sample(folder, "result", lambda path: decode_result(path.read_bytes()), encode_result(good))


def _answer(folder: Path) -> Sample:
    good = served_helpers.pack({"actions": np.zeros((HORIZON, len(JOINTS))), "server_timing": {"infer_ms": 1.5}})

    def read(path: Path) -> None:
        with explained("the answer: ", PolicyUnavailable):
            read_actions(unpack(path.read_bytes()), "ws://server")

    return make_sample(folder, "answer", read, good)


def _messages() -> list[tuple[str, Any, int]]:
    """What a recording of the robot holds, a little of each."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    trace = {"cameras_ns": {"front": at(0)}, "joint_positions": [0.0] * 3, "task": "a", "asked_ns": at(0)}
    places = [("/vla_policy/task", string("touch the red block")), ("/vla_policy/mode", string("POLICY"))]
    places += [("/vla_policy/trace", string(json.dumps(trace | {"taken_ns": at(0)})))]
    places += [("/vla_policy/episode", string("start")), ("/sim/blocks", string('{"red": [0.1, 0.2]}'))]
    messages = [(topic, message, at(0)) for topic, message in places]
    for i in range(3):
        stamp_ns = at(0.1 * i)
        rows = np.zeros((3, 3)) + 0.01 * i
        several = {
            "/joint_states": joint_state(stamp_ns, JOINTS, rows[0], rows[0]),
            "/front/image": image(stamp_ns, pixels),
            "/top/image": jpeg(stamp_ns, pixels),
            "/vla_policy/teleop": trajectory(stamp_ns, JOINTS, rows),
            "/leader/joint_states": joint_state(stamp_ns, JOINTS, rows[0]),
            "/vla_policy/chunk": trajectory(stamp_ns, JOINTS, rows),
            "/joint_trajectory_controller/joint_trajectory": trajectory(stamp_ns, JOINTS, rows),
        }
        messages += [(topic, message, stamp_ns) for topic, message in several.items()]
    return messages


def _bag(write: Callable[[Path], None], name: str, form: str, folder: Path) -> Sample:
    folder.mkdir(parents=True)
    write(folder / "bag")
    text = ROBOT.read_text().replace("topic: top/image,", "topic: top/image, compressed: true,")
    text += "teleop: {type: joint_states, topic: leader/joint_states}\n"
    (folder / "robot.yaml").write_text(text)
    robot = load_robot(folder / "robot.yaml")
    (path,) = (folder / "bag").glob(name)
    (folder / "tmp").mkdir()

    def read() -> Lines:
        feed = Feed(BagReader(folder / "bag"), robot, also=(*REPLAYED, *LEARNED))
        for event in feed:
            frame = getattr(event, "frame", None)
            if frame is not None:
                try:
                    _ = frame.image
                except ValueError as error:
                    feed.report("frame", str(error))
        return feed.problems

    return Sample(folder, path, read, form)


def _recorded_image(folder: Path) -> Sample:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    data = bytes(serialize(image(at(0), pixels)))
    return make_sample(folder, "image", lambda path: as_jpeg(path.read_bytes(), 90), data)


def _write_plain(bag: Path) -> None:
    """Without chunks, so that mutations reach definitions and messages."""
    bag.mkdir()
    channels: dict[str, tuple[str, list[Any]]] = {}
    for topic, message, _ in _messages():
        channels.setdefault(topic, (message.__msgtype__, []))[1].append(message)
    rows = [
        (topic, msgtype, "ros2msg", TYPES.generate_msgdef(msgtype, ros_version=2)[0], messages)
        for topic, (msgtype, messages) in channels.items()
    ]
    write_plain_mcap(bag / "bag_0.mcap", *rows)


def _write_packed(bag: Path) -> None:
    """Each file compressed as a whole."""
    write_bag(bag, _messages(), SQLITE)
    for path in bag.glob("*.db3"):
        path.with_suffix(".db3.zstd").write_bytes(zstd.compress(path.read_bytes()))
        path.unlink()
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(text.replace(".db3", ".db3.zstd"))


def _baseline(folder: Path) -> Sample:
    def read(path: Path) -> None:
        stored_tolerances(path)
        read_baseline(path)

    return make_sample(folder, "baseline.json", read, (ROOT / "test" / "data" / "tabletop_touch.json").read_bytes())


def _text(parse: Callable[[str], Any], text: str, folder: Path) -> Sample:
    return make_sample(folder, "text", lambda path: parse(path.read_bytes().decode(errors="replace")), text.encode())


def _write(storage: Any, compression: Any, bag: Path) -> None:
    write_bag(bag, _messages(), storage, compression)


TRACE = '{"cameras_ns": {"front": 5}, "joint_positions": [0.5, 1], "task": "a", "asked_ns": 5, "taken_ns": 6}'
READERS: dict[str, Make] = {
    "robot": _robot,
    "urdf": _urdf,
    "kinematics.urdf": _chain,
    "policy.yaml": partial(_policy, "policy.yaml", _load),
    "processor.json": partial(_policy, "processor/processor.json", _load),
    "tokenizer.json": partial(_policy, "processor/tokenizer.json", _open),
    "norm_stats.json": partial(_policy, "norm_stats.json", _open),
    "golden.safetensors": partial(_policy, "golden.safetensors", _load),
    "model.safetensors": partial(_policy, "model.safetensors", _load),
    "cfg.yaml": partial(_run, "run/cfg.yaml", _load_released, ""),
    "config.json": partial(_run, "vlm/config.json", _load_released, ""),
    "preprocessor_config": partial(_run, "vlm/preprocessor_config.json", _read_image_config, ""),
    "model.pt": partial(_run, "run/checkpoint_10/model.pt", _load_released, "zip"),
    "stats.npz": partial(
        _run, "run/stats.npz", lambda folder: read_released_stats(folder / "run/stats.npz", SHAPES), "zip"
    ),
    "import": partial(_run, "run/cfg.yaml", _import, ""),
    "lerobot's config.json": partial(_lerobot, "config.json"),
    "lerobot's steps": partial(_lerobot, "policy_preprocessor.json"),
    "lerobot's statistics": partial(_lerobot, "stats.safetensors"),
    "lerobot's weights": partial(_lerobot, "model.safetensors"),
    "openpi's statistics": _openpi,
    "space": _space,
    "case.safetensors": _case,
    "request": _request,
    "result": _result,
    "server's answer": _answer,
    "server's keys": partial(_packaged, "config/served/droid.yaml", lambda path: read_keys(str(path))),
    "metadata.yaml": partial(_bag, partial(_write, MCAP, None), "metadata.yaml", ""),
    "mcap": partial(_bag, partial(_write, MCAP, None), "*.mcap", ""),
    "mcap, plain": partial(_bag, _write_plain, "*.mcap", ""),
    "mcap, zstd chunks": partial(_bag, partial(_write, MCAP, CompressionMode.STORAGE), "*.mcap", ""),
    "mcap.zstd": partial(_bag, partial(_write, MCAP, CompressionMode.FILE), "*.zstd", "zstd"),
    "db3": partial(_bag, partial(_write, SQLITE, None), "*.db3", ""),
    "db3.zstd": partial(_bag, _write_packed, "*.zstd", "zstd"),
    "db3, zstd messages": partial(_bag, partial(_write, SQLITE, CompressionMode.MESSAGE), "*.db3", ""),
    "record --compress jpeg": _recorded_image,
    "baseline.json": _baseline,
    "replay result": lambda folder: Sample(folder, *stored_result(folder, "*.safetensors")),
    "replay run": lambda folder: Sample(folder, *stored_result(folder, "run-*.json")),
    **TRAINING,
    "trace": partial(_text, decode_trace, TRACE),
    "sim/reset": partial(_text, parse_reset, '{"seed": 1, "instruction": "touch it", "target": "red"}'),
}
"""Names of readers, and what makes the sample of each in a folder."""
