"""Every reader of a file or a message against what nobody wrote: seeded mutations of good samples, read in a process
that may be killed.

    python benchmarks/fuzz.py [--mutations 2000] [--reader NAME ...] [--seed 0] [--json FILE]

A mutation is to be read, or refused by a ValueError in one printable line. Everything else is a fault, with which the
script exits 1: another exception, a process that dies, more than 2 s of CPU time (or 30 s of waiting), 512 MB more
memory than before, a file that wasn't there before. `--reader NAME --only INDEX` repeats one of them in this process,
and shows what comes of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TextIO

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # before anybody makes threads: workers fork

from fuzz_mutations import mutate
from fuzz_readers import READERS, Sample

from vla_ros.strict import MAX_LINE

MAX_CPU_S, MAX_WALL_S, MAX_BYTES = 2.0, 30.0, 512 << 20
ADDRESS_SPACE = 2 << 30
"""What a worker may map besides what it has: a reader that wants more gets a MemoryError, not the machine's memory."""
NUM_SHOWN = 5
GOOD = ("accepted", "refused")
KILLED = {signal.SIGPROF: "hang", signal.SIGALRM: "hang", signal.SIGKILL: "killed"}


@dataclass
class Tally:
    """What came of a reader's mutations; ``peak_bytes`` is the most that one took, ``faults`` names each by its index,
    ``said`` is the last line that was printed."""

    outcomes: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0
    faults: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def num_faults(self) -> int:
        return self.outcomes.total() - sum(self.outcomes[kind] for kind in GOOD)

    def add(self, index: int, outcome: str, text: str = "", num_bytes: int = 0) -> None:
        self.outcomes[outcome] += 1
        self.peak_bytes = max(self.peak_bytes, num_bytes)
        self.said = text
        if outcome not in GOOD:
            self.faults.append(f"{index}: {outcome} {text}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000, metavar="N", help="of each reader (default 2000)")
    parser.add_argument("--reader", nargs="+", choices=READERS, default=list(READERS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--only", type=int, metavar="INDEX", help="one mutation, here")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args(argv)
    if args.only is not None:
        return repeat(args.reader[0], args.only, args.seed)
    tallies = {}
    print(f"{'reader':22}{'refused':>8}{'accepted':>9}{'faults':>7}{'peak MB':>8}", flush=True)
    for name in args.reader:
        tally = tallies[name] = fuzz(name, args.mutations, args.seed)
        counts = [tally.outcomes["refused"], tally.outcomes["accepted"], tally.num_faults, tally.peak_bytes >> 20]
        print(f"{name:22}{counts[0]:8}{counts[1]:9}{counts[2]:7}{counts[3]:8}", flush=True)
        for line in tally.faults[:NUM_SHOWN]:
            print(f"    {line}", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps({name: vars(tally) for name, tally in tallies.items()}, indent=1))
    return 1 if any(tally.num_faults for tally in tallies.values()) else 0


def fuzz(name: str, num_mutations: int, seed: int) -> Tally:
    """Read so many mutations of a reader's sample."""
    with tempfile.TemporaryDirectory() as folder:
        sample = READERS[name](Path(folder) / "sample")
        check_good(sample)
        return judge(sample, [partial(_mutate, sample, name, index, seed) for index in range(num_mutations)])


def check_good(sample: Sample) -> None:
    """Nothing could be learned from a sample that is refused as it is."""
    outcome = _read(sample)
    assert outcome[0] == "accepted", outcome


def judge(sample: Sample, damages: Sequence[Callable[[], object]]) -> Tally:
    """What comes of reading ``sample`` after each of ``damages``, which is done to the good file."""
    tally = Tally()
    num_done = 0
    while num_done < len(damages):
        num_done += _run_worker(sample, damages, num_done, tally)
    return tally


def repeat(name: str, index: int, seed: int) -> int:
    """One mutation in this process."""
    with tempfile.TemporaryDirectory() as folder:
        sample = READERS[name](Path(folder) / "sample")
        _mutate(sample, name, index, seed)
        data = sample.path.read_bytes()
        print(data[:4000], len(data))
        print("accepted", repr(sample.read())[:1000])
    return 0


def _mutate(sample: Sample, name: str, index: int, seed: int) -> None:
    rng = random.Random(f"{seed} {name} {index}")
    sample.path.write_bytes(mutate(sample.path.read_bytes(), rng, sample.form))


def _run_worker(sample: Sample, damages: Sequence[Callable[[], object]], first: int, tally: Tally) -> int:
    """A child reads after one damage and the other, from ``first`` on, until all are done or one kills it; returns how
    many are done."""
    reading, writing = os.pipe()
    good = sample.path.read_bytes()
    pid = os.fork()
    if not pid:
        os.close(reading)
        with os.fdopen(writing, "w", buffering=1) as report:
            _work(sample, damages, first, report)
        os._exit(0)
    os.close(writing)
    num_done, current = 0, None
    with os.fdopen(reading) as lines:
        for line in lines:
            index, *outcome = json.loads(line)
            current = index
            if outcome:
                tally.add(index, *outcome)
                num_done, current = num_done + 1, None
    _, status = os.waitpid(pid, 0)
    if current is not None:
        number = os.waitstatus_to_exitcode(status)
        tally.add(current, KILLED.get(-number, f"died ({number})"))
        num_done += 1
    _restore(sample, good)
    return num_done


def _work(sample: Sample, damages: Sequence[Callable[[], object]], first: int, report: TextIO) -> None:
    _limit_address_space()
    good, before = sample.path.read_bytes(), _listing(sample.folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a library prints of its own
    tempfile.tempdir = str(sample.folder / "tmp")
    for index in range(first, len(damages)):
        _restore(sample, good)
        damages[index]()
        print(json.dumps([index]), file=report)
        start_bytes = _reset_peak()
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
        signal.setitimer(signal.ITIMER_REAL, MAX_WALL_S)
        outcome, text = _read(sample)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        num_bytes = _status_bytes("VmHWM") - start_bytes
        if outcome in GOOD and num_bytes > MAX_BYTES:
            outcome, text = "memory", f"{num_bytes >> 20} MB"
        if outcome in GOOD and (new := _listing(sample.folder) - before):
            outcome, text = "left behind", str(new)
        print(json.dumps([index, outcome, text, num_bytes]), file=report)


def _restore(sample: Sample, good: bytes) -> None:
    if not sample.path.is_file() or sample.path.is_symlink():
        sample.path.rmdir() if sample.path.is_dir() else sample.path.unlink(missing_ok=True)
    sample.path.write_bytes(good)


def _read(sample: Sample) -> tuple[str, str]:
    try:
        lines = sample.read()
        outcome = "accepted"
    except ValueError as error:
        lines, outcome = (str(error),), "refused"
        if type(error) is not ValueError:
            return "traceback", _where(error)
    except BaseException as error:
        return "traceback", _where(error)
    for line in lines or ():
        if not line.isprintable() or len(line) > 3 * MAX_LINE or "weights_only" in line:
            return "line", repr(line[:300])
    return outcome, " ".join(lines or ())


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "vla_ros" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:160]!r}"


def _limit_address_space() -> None:
    limit = _status_bytes("VmSize") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _reset_peak() -> int:
    """Forget the highest resident memory so far; returns what there is now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


def _listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


if __name__ == "__main__":
    sys.exit(main())
