"""What became of one bag with one policy, as a file: written and renamed whole, and refused where it isn't whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vla_ros.replay.baseline.provenance import bag_digest
from vla_ros.replay.episodes import recorded_files
from vla_ros.replay.fleet.packing import pack, unpack
from vla_ros.replay.fleet.plan import RESULT_FORMAT
from vla_ros.replay.records import Replay
from vla_ros.strict import check_regular, explained, one_line, parse_json, quoted

DOCUMENT, CHECKSUM = "document", "sha256"
DAMAGE = (SafetensorError, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


class DamagedResult(ValueError):
    """A file that is not the result that it is named for."""


@dataclass(frozen=True)
class Source:
    """The files of a bag, or of an episode, ``[name, bytes, time of the last change in ns]`` each; none where it can't
    be read."""

    files: tuple[tuple[str, int, int], ...] = ()

    @classmethod
    def of(cls, bag: str | Path) -> Source:
        """As it is now."""
        try:
            stats = [(path.name, path.stat()) for path in recorded_files(Path(bag))]
        except (ValueError, OSError):
            return cls()
        return cls(tuple((name, found.st_size, found.st_mtime_ns) for name, found in stats))


@dataclass(frozen=True)
class Result:
    """``key`` says what the bag was replayed with (``Plan.keys``), ``source`` and ``digest`` what it held, ``machine``
    what computed; ``drift`` is one line where the policy's golden case no longer holds. ``replay`` is None where
    nothing of the bag could be used, and ``refusal`` says why."""

    key: str
    bag: str
    source: Source
    digest: str
    machine: str
    drift: str = ""
    replay: Replay | None = None
    refusal: str = ""

    def is_of(self, bag: str | Path) -> bool:
        """Whether the bag still holds what it held: files that were touched, or copied, are read to tell."""
        now = Source.of(bag)
        if now == self.source:
            return True
        sizes, before = ([(name, num_bytes) for name, num_bytes, _ in of.files] for of in (now, self.source))
        return bool(sizes) and sizes == before and bag_digest(bag) == self.digest


def encode(result: Result) -> bytes:
    """The file's bytes: the same result gives the same."""
    values, arrays = (None, {}) if result.replay is None else pack(result.replay)
    plain = {name: value for name, value in vars(result).items() if name not in ("replay", "source")}
    document = {"format": RESULT_FORMAT, **plain, **asdict(result.source), "replay": values}
    arrays[DOCUMENT] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    return save(arrays, {CHECKSUM: _checksum(arrays)})


def read(path: Path, key: str) -> Result:
    """The result of ``key`` that ``path`` is named for.

    Raises FileNotFoundError where there is none, and DamagedResult, in one line, where it is anything else.
    """
    try:
        check_regular(path)
        data = path.read_bytes()
        result = _decode(data)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedResult(f"result {path}: {error.strerror or error}") from error
    except DAMAGE as error:
        raise DamagedResult(f"result {path}: damaged ({one_line(error)})") from error
    if result.key != key:
        raise DamagedResult(f"result {path}: is of replay {quoted(result.key, 12)}; expected {key[:12]}")
    return result


def _decode(data: bytes) -> Result:
    arrays = load(data)
    # As the header has it, which the library doesn't hand out.
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found, expected = header["__metadata__"][CHECKSUM], _checksum(arrays)
    if found != expected:
        raise ValueError(f"its checksum is {quoted(str(found), 12)}; expected {expected[:12]}")
    document: dict[str, Any] = parse_json(arrays.pop(DOCUMENT).tobytes())
    if document.pop("format") != RESULT_FORMAT:
        raise ValueError("another release wrote it")
    values, files = document.pop("replay"), document.pop("files")
    source = Source(tuple((name, num_bytes, time_ns) for name, num_bytes, time_ns in files))
    return Result(**document, source=source, replay=None if values is None else unpack(values, arrays))


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} ".encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name, then give it its own: whoever reads it sees all of it or the one before.

    Raises ValueError, in one line, where it can't be written; nothing of it is left then.
    """
    partial = path.with_name(f".{uuid4().hex}.partial")
    with explained(f"results {path.parent}: ", OSError, after="; give a folder that can be written, with enough room"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
