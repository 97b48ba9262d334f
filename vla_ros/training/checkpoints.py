"""Checkpoints of a run: folders ``step_N``, spread over its processes, written while it goes on, whole or absent.

The tensors lie in safetensors files, which ``torch.distributed.checkpoint`` writes and reads on any number of
processes; ``checkpoint.json`` says what they are, and of each file how long it is and its checksum. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import warnings
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter, async_save, load
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from vla_ros.strict import check_safetensors, explained, listed, one_line, parse_config, parse_json, read_text
from vla_ros.training.processes import Processes

INFO = "checkpoint.json"
EARLIER = "checkpoint.pt"  # of earlier releases, which pickled it
PARTIAL = ".partial"
WEIGHTS, AVERAGE, OPTIMIZER = "weights.", "average.", "optimizer."
"""How the names of tensors begin; of the last the kind of moment follows, then the weight's name."""
MAX_FILE_BYTES = 256 << 20  # by process, but for a larger tensor: a file is put together in memory
_READ_BYTES = 1 << 20
_STEP = re.compile(r"step_(\d{1,18})")


@dataclass(frozen=True)
class StoredFile:
    num_bytes: int
    crc32: int


@dataclass(frozen=True)
class CheckpointInfo:
    """What ``checkpoint.json`` says: the run is at ``step`` after ``seconds`` in its loop and ``num_drawn`` samples;
    with the seed these are its position in the data. ``settings`` are all of the run, the mixture of its data among
    them."""

    step: int
    seconds: float
    num_drawn: int
    settings: Mapping[str, Any]
    files: Mapping[str, StoredFile] = field(default_factory=dict)


class _Seen(NamedTuple):
    """The files that a process sees, and its share of them."""

    names: list[str]
    files: dict[str, StoredFile]


class CheckpointWriter:
    """Writes the checkpoints of a run into its folder, each while the run goes on, and keeps the newest ``keep``.

    Every process of the run has one and calls the same. It is a context manager: the one that is being written when the
    block ends is finished, whatever ended it.
    """

    def __init__(self, run_dir: Path, keep: int, processes: Processes) -> None:
        self._run_dir = run_dir
        self._keep = keep
        self._processes = processes
        self._group = dist.new_group(backend="gloo")
        # Of this start alone: a process of an earlier one may live on for a while, and write.
        self._start = f"{int(processes.sum(secrets.randbelow(1 << 32) if processes.is_first else 0)):08x}"
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:  # else that comes first
                raise
        finally:
            self._thread.shutdown()

    def save(self, info: CheckpointInfo, tensors: Mapping[str, Tensor]) -> None:
        """Begin a checkpoint: ``tensors`` are copied here, after the one before is whole, and written meanwhile."""
        self.wait()
        partial = self._run_dir / f"step_{info.step}.{self._start}{PARTIAL}"
        numbers = _file_numbers(tensors, self._processes.num)
        writer = HuggingFaceStorageWriter(str(partial), numbers, save_distributed=True)
        written = async_save(dict(tensors), storage_writer=writer, process_group=self._group)
        assert isinstance(written, Future)
        self._pending = self._thread.submit(self._finish, written, partial, info)

    def check(self) -> None:
        """Raises ValueError where the checkpoint that was begun couldn't be written, as far as that is known."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until what was begun is whole; errors as ``check``."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _finish(self, written: Future[Any], partial: Path, info: CheckpointInfo) -> None:
        """In a thread: the first process gives the folder its name when all have written, and nothing is missing."""
        try:
            written.result()
            paths = sorted(partial.glob("*.safetensors"))
            own = {path.name: _stored(path) for path in paths[self._processes.rank :: self._processes.num]}
            seen = [_Seen([path.name for path in paths], own)] * self._processes.num
            dist.gather_object(seen[0], seen if self._processes.is_first else None, 0, self._group)
            if self._processes.is_first:
                self._complete(partial, info, seen)
        except (CheckpointException, OSError) as error:
            if self._processes.is_first:
                shutil.rmtree(partial, ignore_errors=True)
            where = f"run_dir {self._run_dir}: step_{info.step} can't be written"
            raise ValueError(f"{where}: {_reason(error)}; change that, and go on with --resume") from error

    def _complete(self, partial: Path, info: CheckpointInfo, seen: Sequence[_Seen]) -> None:
        if any(each.names != seen[0].names for each in seen):
            raise OSError("some processes don't see what others wrote; expected a folder that all machines share")
        info = replace(info, files={name: each.files[name] for each in seen for name in each.files})
        with (partial / INFO).open("w") as file:
            json.dump(asdict(info), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(partial)
        partial.rename(self._run_dir / f"step_{info.step}")
        _sync_folder(self._run_dir)
        for path in find_checkpoints(self._run_dir)[: -self._keep]:
            aside = path.with_name(f"{path.name}.{self._start}{PARTIAL}")
            path.rename(aside)  # a half of it is none
            shutil.rmtree(aside)


def find_checkpoints(run_dir: Path) -> list[Path]:
    """Those of a run's folder, the newest last. Raises ValueError for one of an earlier release."""
    if (run_dir / EARLIER).exists():
        got = f"{run_dir / EARLIER} is a checkpoint of an earlier release, a pickle, which is not read any more"
        raise ValueError(f"{got}; expected folders step_N: delete it, or give another run_dir")
    found = [path for path in run_dir.glob("step_*") if _STEP.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.partition("_")[2]))


def remove_partial(run_dir: Path) -> None:
    """What a killed run had begun; nobody writes it any more, as the caller has the run's lock."""
    for path in run_dir.glob(f"step_*{PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)


def check_room(run_dir: Path, keep: int, num_bytes: int) -> None:
    """Raises ValueError where the disk has no room for ``keep`` checkpoints of ``num_bytes`` and the one that is being
    written. Those of the run that are there make room."""
    there = sum(file.stat().st_size for path in find_checkpoints(run_dir) for file in path.iterdir() if file.is_file())
    free, needed = shutil.disk_usage(run_dir).free, (keep + 1) * num_bytes - there
    if free < needed:
        got = f"run_dir {run_dir}: {free / 1e9:.1f} GB are free for {keep + 1} checkpoints of {num_bytes / 1e9:.1f} GB"
        fix = "make room, set keep_checkpoints, or give another run_dir"
        raise ValueError(f"{got} (one while it is written); expected {needed / 1e9:.1f} GB: {fix}")


def read_info(path: Path) -> CheckpointInfo:
    """What a checkpoint says. Raises ValueError where that is damaged, or its files aren't those it names."""
    with _damaged(path):
        with explained(f"{INFO}: ", OSError, ValueError):
            info = parse_config(CheckpointInfo, parse_json(read_text(path / INFO)), "it")
        if path.name != f"step_{info.step}":
            raise ValueError(f"{INFO} says step {info.step}")
        there = {file.name: file.stat().st_size for file in path.glob("*.safetensors")}
        wanted = {name: file.num_bytes for name, file in info.files.items()}
        for name in sorted({*there, *wanted}):
            if there.get(name, 0) != wanted.get(name, 0):
                raise ValueError(f"{name} has {there.get(name, 0)} bytes; expected {wanted.get(name, 0)}")
    return info


def check_files(path: Path, info: CheckpointInfo, processes: Processes | None = None) -> None:
    """Raises ValueError for a file that isn't as it was written; of several ``processes`` each reads its share."""
    processes = processes or Processes()
    with _damaged(path):
        for name in sorted(info.files)[processes.rank :: processes.num]:
            with explained(f"{name}: ", OSError, ValueError):
                if _stored(path / name) != info.files[name]:
                    raise ValueError("its checksum is another one than when it was written")


def read_stored(path: Path) -> dict[str, TensorStorageMetadata]:
    """The tensors of a checkpoint, by name."""
    with _damaged(path, Exception):  # a library's
        for file in path.glob("*.safetensors"):
            with explained(f"{file.name}: ", OSError, ValueError):
                check_safetensors(file)
        stored = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
        return {name: tensor for name, tensor in stored.items() if isinstance(tensor, TensorStorageMetadata)}


def check_stored(stored: Mapping[str, TensorStorageMetadata], wanted: Mapping[str, Tensor]) -> None:
    """Raises ValueError, naming some, where a checkpoint hasn't just the tensors ``wanted``, in type and shape."""
    there = {name: f"{name} {each.properties.dtype} {list(each.size)}" for name, each in stored.items()}
    here = {name: f"{name} {each.dtype} {list(each.shape)}" for name, each in wanted.items()}
    others = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    if others:
        got, expected = (listed([of[name] for name in others if name in of]) for of in (there, here))
        raise ValueError(f"it is of another policy: it has {got}; expected {expected}")


def read_tensors(path: Path, tensors: Mapping[str, Tensor], alone: bool = False) -> None:
    """Fill ``tensors`` of a checkpoint, which has them and maybe more; each process reads what it has of them. All of
    them do it, or one ``alone``."""
    with _damaged(path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        try:
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(path)), no_dist=alone)
        except CheckpointException as error:
            raise ValueError(_reason(error)) from error


def _damaged(path: Path, *kinds: type[Exception]) -> AbstractContextManager[None]:
    """Errors of ``kinds`` name the checkpoint and what to do without it."""
    others = [other for other in find_checkpoints(path.parent) if other.name != path.name]
    fix = f"to go on from {others[-1].name}" if others else "to begin anew"
    return explained(f"{path}: damaged (", *kinds, after=f"); restore it, or delete it {fix}")


def _reason(error: CheckpointException | OSError) -> str:
    """Of one process that failed, in one line."""
    cause = error if isinstance(error, OSError) else next(iter(error.failures.values()))[0]
    return one_line(getattr(cause, "strerror", None) or str(cause), 200)


def _file_numbers(tensors: Mapping[str, Tensor], num_processes: int) -> dict[str, int]:
    """Which file, counted from 1, each tensor goes into, in their order; each process has its own of that number."""
    numbers, num_bytes = {}, 0
    for name, tensor in tensors.items():
        numbers[name] = 1 + num_bytes // (MAX_FILE_BYTES * num_processes)
        num_bytes += tensor.numel() * tensor.element_size()
    return numbers


def _stored(path: Path) -> StoredFile:
    num_bytes = checksum = 0
    buffer = memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while num := file.readinto(buffer):
            num_bytes, checksum = num_bytes + num, zlib.crc32(buffer[:num], checksum)
    return StoredFile(num_bytes, checksum)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
