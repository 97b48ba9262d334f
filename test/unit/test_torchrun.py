"""``torchrun`` with two processes of ``vla_ros train``, at a size that takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_families import FAMILIES
from training_helpers import run, small_config, small_overrides

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
BAD_PROCESS = """
import os, signal, sys
from vla_ros.cli import train
from vla_ros.cli.command_line import main

def configure(args):
    from vla_ros.training.processes import Processes
    if os.environ["RANK"] == "1":
        {deed}
    Processes().wait()

train._config = configure
sys.exit(main(["train"]))
"""


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*LAUNCH, *command], capture_output=True, text=True, env=environment)


def test_two_processes_train_as_one_does_and_the_run_goes_on_with_one(bags, tmp_path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    figures = tmp_path / "figures.json"
    overrides = small_overrides(two, bags, "optimizer.num_steps=2")
    done = launch("-m", "vla_ros.cli", "train", "--config", "tiny_touch", "--json", str(figures), *overrides)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 2: new scenes") == done.stdout.count("policy directory: ") == 1
    run(small_config(one, bags, "optimizer.num_steps=2"))
    mine, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in (one, two))
    for name, value in mine.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-5)
    assert len(list((two / "run" / "step_2").glob("shard-*.safetensors"))) == 2, "each writes its part"
    logged = [json.loads((folder / "run" / "log.jsonl").read_text()) for folder in (one, two)]
    assert logged[0]["loss"] == pytest.approx(logged[1]["loss"], abs=2e-5)
    assert json.loads(figures.read_text())["validation"]["error_rad"] == pytest.approx(logged[0]["error_rad"], abs=1e-3)
    lines: list[str] = []
    run(small_config(two, bags), lines.append)
    assert any(line.endswith("step_2 at step 2") for line in lines)


def test_a_run_whose_processes_are_killed_while_a_checkpoint_is_open_loses_nothing(tmp_path: Path) -> None:
    script, figures = Path(__file__).parents[2] / "benchmarks" / "checkpoints.py", tmp_path / "figures.json"
    command = [sys.executable, str(script), "--rows", "killed", "--kills", "2", "--steps", "16", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert figures.exists(), done.stderr
    found = json.loads(figures.read_text())
    assert found["losses of a killed run"] < 1e-5 and found["unreadable checkpoints"] == 0


def test_every_family_is_sharded_layer_by_layer_and_has_the_gradients_that_it_has_whole(tmp_path: Path) -> None:
    done = launch(str(Path(__file__).with_name("sharded_families.py")), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.split("\n")[:-1] if line] == list(FAMILIES)
    assert "UserWarning" not in done.stderr


def test_one_bad_process_ends_all_and_one_of_them_says_why(tmp_path: Path) -> None:
    ended = run_bad(tmp_path, 'raise ValueError("this one is bad")')
    assert ended == ["vla_ros train: this one is bad"]


def test_a_killed_process_ends_all(tmp_path: Path) -> None:
    said = run_bad(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    # The other one tells, or is ended by torchrun before it can.
    assert len(said) <= 1 and all("another process of this run has ended" in line for line in said)


def run_bad(folder: Path, deed: str) -> list[str]:
    """What the processes said, one of which does ``deed``, the other waits for it."""
    script = folder / "bad.py"
    script.write_text(BAD_PROCESS.format(deed=deed))
    ended = launch(str(script))
    assert ended.returncode != 0
    launchers = ended.stderr.count("Traceback (most recent call last)")
    assert launchers <= 1, ended.stderr
    return [line for line in ended.stderr.splitlines() if line.startswith("vla_ros train: ")]
