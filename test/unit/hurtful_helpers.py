"""What is done to a good file to make it hurt: each function gives one that changes the file at a path."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import bag_samples
import cv2
import numpy as np
import torch
import yaml
from bag_samples import at, write_plain_mcap

from vla_ros.bags.compression import zstd
from vla_ros.bags.definitions import TYPES, serialize

Hurt = Callable[[Path], object]
HUGE = 2**40


def text(content: str) -> Hurt:
    return lambda path: path.write_text(content)


def replaced(old: str, new: str) -> Hurt:
    def replace(path: Path) -> None:
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1))

    return replace


def changed(*keys: str, to: Any) -> Hurt:
    """One value of a JSON or YAML file."""

    def change(path: Path) -> None:
        document = yaml.safe_load(path.read_text())
        group = document
        for key in keys[:-1]:
            group = group[key]
        group[keys[-1]] = to
        path.write_text(yaml.safe_dump(document) if path.suffix == ".yaml" else json.dumps(document))

    return change


def link(target: str) -> Hurt:
    def make(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return make


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def doubling(opening: str, last: str) -> str:
    """A YAML document in which each of 40 keys stands for the one before it twice."""
    lines = [f"a0: &a0 {last}"] + [f"a{i}: &a{i} {opening.format(i - 1)}" for i in range(1, 41)]
    return "\n".join(lines)


def interpolated(first: str, pair: str) -> str:
    """Keys each of which names the one before it twice."""
    return (
        f"x0: {first}\n" + "".join(f"x{i}: " + pair.format(f"${{x{i - 1}}}") + "\n" for i in range(1, 41)) + "policy:"
    )


def safetensors(header: str | bytes, data: bytes = b"", size: int | None = None) -> Hurt:
    header = header.encode() if isinstance(header, str) else header
    return lambda path: path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + data)


def tensor(of: str = "", **changes: Any) -> Hurt:
    """The first tensor of a safetensors file (of that type), described otherwise."""

    def change(path: Path) -> None:
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        header[next(name for name in header if name != "__metadata__" and of in header[name]["dtype"])] |= changes
        encoded = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[end:])

    return change


def metadata(**changes: str) -> Hurt:
    def change(path: Path) -> None:
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        header["__metadata__"] |= changes
        encoded = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[end:])

    return change


def saved(change: Callable[[dict[str, Any]], object]) -> Hurt:
    """A state dict, changed."""

    def save(path: Path) -> None:
        weights = torch.load(path, weights_only=True)
        change(weights)
        torch.save(weights, path)

    return save


def expanded(weights: dict[str, Any]) -> None:
    name = next(iter(weights))
    weights[name] = weights[name].flatten()[:1].expand(HUGE)


def shared_key(path: Path) -> None:
    """Weights whose only name is a tuple of tuples of tuples, each the same one twice."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, SHARED_KEY if name.endswith("data.pkl") else data)


def repacked(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data + bytes(1 << 28) * name.endswith("data.pkl"))


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def pickled(program: bytes) -> Hurt:
    """Statistics whose entry is a pickle."""

    def write(path: Path) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("state.npy", header.getvalue() + program)

    return write


SHARED_LISTS = b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(60)) + b"."
SHARED_KEY = b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s."


@lru_cache
def zeros(num_bytes: int) -> bytes:
    """So many, compressed."""
    packer = zstd.ZstdCompressor()
    return b"".join(packer.compress(bytes(1 << 24)) for _ in range(num_bytes >> 24)) + packer.flush()


def chunk(declared: int, num_chunks: int = 1) -> Hurt:
    """Chunks that unpack to zeros."""

    def write(path: Path) -> None:
        packed = zeros(declared)
        content = struct.pack("<QQQI", 0, 0, declared, 0) + struct.pack("<I", 4) + b"zstd"
        content += struct.pack("<Q", len(packed)) + packed
        record = struct.pack("<BQ", 6, len(content)) + content
        path.write_bytes(b"\x89MCAP0\r\n" + record * num_chunks)

    return write


def records(path: Path) -> None:
    """Twenty records of a kind that nobody reads, each of 64 MiB, compressed as a whole."""
    packer = zstd.ZstdCompressor()
    parts = [packer.compress(b"\x89MCAP0\r\n")]
    for _ in range(20):
        parts.append(packer.compress(struct.pack("<BQ", 99, 1 << 26)))
        parts += [packer.compress(bytes(1 << 24)) for _ in range(4)]
    path.write_bytes(b"".join(parts) + packer.flush())


def sql(*statements: str) -> Hurt:
    def run(path: Path) -> None:
        connection = sqlite3.connect(path)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return run


COUNT_FOR_EVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
FOREVER = (
    f"CREATE VIEW messages AS {COUNT_FOR_EVER} SELECT i AS id, 1 AS topic_id, i AS timestamp, x'00' AS data FROM n"
)
COMPUTED = "CREATE TABLE messages (id INTEGER, topic_id INTEGER, timestamp INTEGER, data AS (zeroblob(1000000000)))"


def packed_zeros(num_bytes: int) -> Hurt:
    return lambda path: path.write_bytes(zeros(num_bytes))


def one_message(topic: str, msgtype: str, data: bytes) -> Hurt:
    definition, _ = TYPES.generate_msgdef(msgtype, ros_version=2)
    return lambda path: write_plain_mcap(path, (topic, msgtype, "ros2msg", definition, [data]))


def cdr_string(content: bytes) -> bytes:
    return b"\0\1\0\0" + struct.pack("<I", len(content) + 1) + content + b"\0"


def joint_state(num_names: int) -> bytes:

    from vla_ros.bags.definitions import serialize

    return bytes(serialize(bag_samples.joint_state(at(0), ["base"] * num_names, [0.0] * num_names)))


def trajectory(num_names: int) -> bytes:

    from vla_ros.bags.definitions import serialize

    return bytes(serialize(bag_samples.trajectory(at(0), [f"joint_{i}" for i in range(num_names)], [[0.0]])))


def picture(suffix: str) -> bytes:
    """A compressed picture that says it is 30000 pixels wide and high."""
    _, data = cv2.imencode(suffix, np.zeros((24, 32, 3), np.uint8))
    side, sizes = struct.pack(">H", 30_000), struct.pack(">HH", 24, 32)
    data = data.tobytes().replace(sizes, side + side, 1)
    ihdr = b"IHDR" + struct.pack(">II", 30_000, 30_000) + data[24:29]
    data = data[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + data[33:] if suffix == ".png" else data
    message = bag_samples.jpeg(at(0), np.zeros((24, 32, 3), np.uint8))
    message.data, message.format = np.frombuffer(data, np.uint8), suffix[1:].replace("jpg", "jpeg")
    return bytes(serialize(message))


PADDING = {"strategy": {"Fixed": 10**12}, "direction": "Left", "pad_to_multiple_of": None}
PADDING |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
VLM = ("policy", "vlm_config")
EXPERT = ("policy", "action_expert_cfg")
STRING, TRAJECTORY = "std_msgs/msg/String", "trajectory_msgs/msg/JointTrajectory"
BOMB = "a\\u001b[31m\\n"


def split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


GROWING = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 10}
