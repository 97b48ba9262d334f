"""Whether a run that is killed while it writes a checkpoint loses nothing, and how long a checkpoint stops a run:
`python benchmarks/checkpoints.py [--rows killed pause]`.

killed  a tiny policy on made-up samples (those of sharded_training.py), a checkpoint at each step. The run's processes
        get SIGKILL at random moments while a checkpoint is open, 20 times, and it goes on with 1, 2 and 4 processes in
        turn: the largest relative difference of a step's loss to those of a run that was left alone, and how many
        checkpoints couldn't be read (each is, after every kill). `--picture FILE` draws both runs (matplotlib)
pause   how long the loop waits for a checkpoint of 640 MB that is written while it goes on, by how long for one that it
        waits for until it is whole; medians of alternating ones, while the loop multiplies matrices

Exits 1 where a figure misses its limit. The processes are forks of this one, so that none imports torch again.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from sharded_training import make_trainer, report

from vla_ros.strict import parse_json
from vla_ros.training.checkpoints import (
    PARTIAL,
    CheckpointInfo,
    CheckpointWriter,
    check_files,
    find_checkpoints,
    read_info,
    remove_partial,
)
from vla_ros.training.lock import locked
from vla_ros.training.metrics import METRICS
from vla_ros.training.processes import joined

NUM_KILLS, NUM_STEPS, NUM_PROCESSES, NUM_AT_MOST = 20, 120, (1, 2, 4), 60
PAUSE_TENSORS, TENSOR_SHAPE, NUM_PAUSES = 160, (1024, 1024), 3  # 4 MiB each
LIMITS = {"losses": 1e-5, "unreadable": 0.0, "kills short of": 0.0, "pause": 0.5}
PR_SET_PDEATHSIG = 1
FORK = multiprocessing.get_context("fork")


def train_on(rank: int, num: int, port: int, run_dir: Path, num_steps: int) -> None:
    """One process of a run, as torchrun would start it; it ends with the one that started it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)
    if num > 1:
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "killed", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num),
            "LOCAL_WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    sys.stderr = run_dir.with_suffix(".log").open("a")  # progress, and what those say that outlive one for a moment
    with joined() as processes, locked(run_dir) if processes.is_first else nullcontext():
        if processes.is_first:
            remove_partial(run_dir)
        processes.wait()
        trainer = make_trainer(processes, str(run_dir), num_steps, checkpoint_every=1, validate_every=num_steps)
        trainer.resume(lambda line: None)
        trainer.run(lambda line: None)


def start(num: int, run_dir: Path, num_steps: int) -> list[BaseProcess]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [FORK.Process(target=train_on, args=(rank, num, port, run_dir, num_steps)) for rank in range(num)]
    for process in processes:
        process.start()
    return processes


def open_checkpoints(run_dir: Path, processes: list[BaseProcess]) -> Iterator[str]:
    """The name of each checkpoint that is begun, as soon as it is seen, until the run has ended."""
    seen: set[str] = set()
    while any(process.is_alive() for process in processes):
        for name in {name for name in os.listdir(run_dir) if name.endswith(PARTIAL)} - seen:
            seen.add(name)
            yield name
        time.sleep(0.0005)


def run_until_killed(num: int, run_dir: Path, num_steps: int, rng: random.Random, open_s: float) -> bool:
    """Kill a run at a random moment of one of the first checkpoints that it writes; whether that one was open yet."""
    before = set(os.listdir(run_dir))  # of a life before this one
    processes = start(num, run_dir, num_steps)
    num_passed = rng.randrange(3)
    for name in open_checkpoints(run_dir, processes):
        if name in before:
            continue
        if num_passed == 0:
            time.sleep(rng.uniform(0, open_s))
            if (run_dir / name).exists():
                break
            open_s /= 2  # it is open for a shorter time now
        num_passed = max(0, num_passed - 1)
    for process in rng.sample(processes, num):  # the workers themselves, in any order
        process.kill()
    for process in processes:
        process.join()
    return any(name.endswith(PARTIAL) and name not in before for name in os.listdir(run_dir))


def count_unreadable(run_dir: Path) -> int:
    num = 0
    for path in find_checkpoints(run_dir):
        try:
            check_files(path, read_info(path))
        except ValueError as error:
            print(error)
            num += 1
    return num


def losses_of(run_dir: Path) -> dict[int, float]:
    lines = [parse_json(line) for line in (run_dir / METRICS).read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def run_alone(run_dir: Path, num_steps: int) -> float:
    """An undisturbed run; how long a checkpoint is open, s."""
    (process,) = processes = start(1, run_dir, num_steps)
    open_s = []
    for name in open_checkpoints(run_dir, processes):
        began = time.perf_counter()
        while (run_dir / name).exists():
            time.sleep(0.0005)
        open_s.append(time.perf_counter() - began)
    process.join()
    return statistics.median(open_s)


def row_killed(args: argparse.Namespace) -> dict[str, float]:
    rng, num_open, num_tried, num_unreadable, ends = random.Random(args.seed), 0, 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder, "alone"), Path(folder, "killed")
        alone.mkdir()
        killed.mkdir()
        open_s = run_alone(alone, args.steps)
        print(f"a checkpoint is open for {1e3 * open_s:.0f} ms", flush=True)
        while num_open < args.kills and num_tried < NUM_AT_MOST:
            num = NUM_PROCESSES[num_tried % len(NUM_PROCESSES)]
            was_open = run_until_killed(num, killed, args.steps, rng, open_s)
            num_tried, num_open = num_tried + 1, num_open + was_open
            num_unreadable += count_unreadable(killed)
            found = find_checkpoints(killed)
            ends.append(int(found[-1].name.partition("_")[2]) if found else 0)
            print(f"{num} processes killed{' while a checkpoint was open' * was_open}, at step {ends[-1]}", flush=True)
            if ends[-1] == args.steps:
                break
        last = start(NUM_PROCESSES[num_tried % len(NUM_PROCESSES)], killed, args.steps)
        for process in last:
            process.join()
        if any(process.exitcode for process in last):
            print(killed.with_suffix(".log").read_text()[-2000:])
        num_unreadable += count_unreadable(killed)
        mine, theirs = losses_of(killed), losses_of(alone)
    assert list(mine) == list(theirs) == list(range(1, args.steps + 1)), f"steps of the killed run: {list(mine)}"
    if args.picture:
        draw(Path(args.picture), theirs, mine, ends)
    return {
        "losses of a killed run": max(abs(mine[step] / theirs[step] - 1) for step in theirs),
        "unreadable checkpoints": float(num_unreadable),
        f"kills short of {args.kills}": float(args.kills - num_open),
    }


def draw(path: Path, alone: dict[int, float], killed: dict[int, float], ends: list[int]) -> None:
    """Both runs, and where the one was killed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    axes.plot(list(alone), list(alone.values()), linewidth=4, alpha=0.35, label="left alone")
    axes.plot(list(killed), list(killed.values()), linewidth=1.2, label=f"killed {len(ends)} times")
    axes.plot(ends, [killed[max(1, step)] for step in ends], "x", label="goes on from here")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    figure.savefig(path, dpi=120)


def measure_pauses(results: multiprocessing.Queue[tuple[list[float], list[float]]]) -> None:
    """Of the loop, s: for checkpoints that are written while it goes on, and for those that it waits for."""
    torch.set_num_threads(1)
    tensors = {f"weights.{i}": torch.full(TENSOR_SHAPE, float(i)) for i in range(PAUSE_TENSORS)}
    meanwhile, waited = [], []
    matrix = torch.ones(256, 256)
    with tempfile.TemporaryDirectory() as folder, joined() as processes:
        with CheckpointWriter(Path(folder), 1, processes) as writer:
            for step in range(1, 2 * NUM_PAUSES + 1):
                began = time.perf_counter()
                writer.save(CheckpointInfo(step, 0.0, 0, {}), tensors)
                if step % 2:
                    meanwhile.append(time.perf_counter() - began)
                    while not find_checkpoints(Path(folder))[-1:] == [Path(folder, f"step_{step}")]:
                        matrix @ matrix
                writer.wait()
                if step % 2 == 0:
                    waited.append(time.perf_counter() - began)
    results.put((meanwhile, waited))


def row_pause(args: argparse.Namespace) -> dict[str, float]:
    results: multiprocessing.Queue[tuple[list[float], list[float]]] = FORK.Queue()
    process = FORK.Process(target=measure_pauses, args=(results,))
    process.start()
    meanwhile, waited = results.get(timeout=600)
    process.join()
    for what, pauses in (("written meanwhile", meanwhile), ("waited for", waited)):
        print(f"{what}: {' '.join(f'{pause:.2f}' for pause in pauses)} s")
    return {"pause": statistics.median(meanwhile) / statistics.median(waited)}


def main() -> int:
    rows: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {"killed": row_killed, "pause": row_pause}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows), help="which to measure (default all)")
    parser.add_argument("--kills", type=int, default=NUM_KILLS, help=f"default {NUM_KILLS}")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help=f"of the run that is killed (default {NUM_STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--picture", metavar="FILE", help="draw the run that was killed and the other one here")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    figures = {name: value for row in args.rows for name, value in rows[row](args).items()}
    return report(figures, LIMITS, args.json)


if __name__ == "__main__":
    sys.exit(main())
