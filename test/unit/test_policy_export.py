"""Exports of a policy directory: whole at any moment, whatever lay there before."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from policy_helpers import observation, pi_config, policy_processor

torch = pytest.importorskip("torch")

from vla_ros import share  # noqa: E402
from vla_ros.policies.directory import load_policy, save_policy  # noqa: E402
from vla_ros.policies.fill import build_policy  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = pi_config()
    path = tmp_path_factory.mktemp("policy") / "tiny"
    save_policy(path, build_policy(config), policy_processor(config), observation())
    return path


@pytest.fixture
def policy_dir(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "policy"))


# It forks, and so must not have computed anything before: no thread of a library survives that.
KILLED_EXPORTS = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
import torch
from vla_ros.policies.directory import load_policy, save_policy
from vla_ros.policies.files import open_policy
from vla_ros.policies.fill import build_on_meta

torch.set_num_threads(1)
folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
build_on_meta(open_policy(folder).processor.config, "")  # imports all there is to import

def export():
    loaded, observation = load_policy(folder, "cpu"), open_policy(folder).golden.observation
    while True:  # each is another one
        loaded.policy.action_out_proj.bias.data += 0.01
        save_policy(folder, loaded.policy, loaded.processor, observation)

def in_child(run):
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    return child

def changed_ns():
    path = folder / "policy.yaml"
    return path.stat().st_mtime_ns if path.exists() else 0

for _ in range(30):
    before_ns, child = changed_ns(), in_child(export)
    while changed_ns() in (0, before_ns):
        time.sleep(0.001)  # between two looks: the first export is not what is killed
    time.sleep(rng.uniform(0.0, 0.1))  # when it is killed is what this is about
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    _, status = os.waitpid(in_child(lambda: load_policy(folder, "cpu")), 0)
    print("lost" if status else "whole", flush=True)
    if status:
        sys.exit(1)
"""


def test_an_export_killed_at_any_moment_leaves_a_policy_that_loads(policy_dir: Path) -> None:
    command = [sys.executable, "-c", KILLED_EXPORTS, str(policy_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.stdout.split() == 30 * ["whole"], done.stdout + done.stderr


def test_an_export_killed_between_its_two_renames_leaves_the_policy_before_it(
    policy_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_policy(policy_dir, "cpu")

    def rename(path: Path, target: Path) -> Path:
        if target == policy_dir:
            raise KeyboardInterrupt
        os.rename(path, target)
        return target

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", rename)
        save_policy(policy_dir, loaded.policy, loaded.processor, observation())
    assert not policy_dir.exists()
    assert share.policy_dir(str(policy_dir)) == policy_dir
    again = load_policy(policy_dir, "cpu")
    assert again.digest == loaded.digest
    assert "was interrupted; " in again.notes[0]
    save_policy(policy_dir, loaded.policy, loaded.processor, observation())
    assert not load_policy(policy_dir, "cpu").notes
    assert [path.name for path in policy_dir.parent.iterdir()] == [policy_dir.name]


def test_an_export_keeps_what_else_lies_in_the_folder(policy_dir: Path) -> None:
    loaded = load_policy(policy_dir, "cpu")
    (policy_dir / "README.md").write_text("mine")
    save_policy(policy_dir, loaded.policy, loaded.processor, observation())
    assert (policy_dir / "README.md").read_text() == "mine"
    assert stat.S_IMODE(policy_dir.stat().st_mode) & 0o055  # others may read it


def test_a_saved_policy_may_be_read_by_whoever_may_read_its_folder(saved: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o666 for path in saved.rglob("*") if path.is_file()}
    assert set(modes.values()) == {saved.stat().st_mode & 0o666}, modes


def test_an_export_refuses_the_folder_it_runs_in(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_policy(saved, "cpu")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is the folder that this runs in; give another folder"):
        save_policy(".", loaded.policy, loaded.processor, observation())
