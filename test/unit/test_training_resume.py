"""A run that was stopped goes on: from where it was, with its own settings, or says what has changed."""

import json
import platform
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import run, small_config, stored_tensors

from vla_ros.share import share_dir
from vla_ros.training.checkpoints import find_checkpoints
from vla_ros.training.config import RUN_CONFIG, load_train_config
from vla_ros.training.metrics import METRICS
from vla_ros.training.trainer import Trainer
from vla_ros.training.versions import VERSIONS


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(bags, tmp_path, monkeypatch):
    whole, killed = small_config(tmp_path / "whole", bags), small_config(tmp_path / "killed", bags)
    run(whole)
    save = Trainer._save

    def save_and_die(trainer, writer):
        save(trainer, writer)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(killed)
    lines = []
    run(killed, lines.append)
    assert any("resumed" in line and "step 2" in line for line in lines)
    first, second = (stored_tensors(Path(c.run_dir, "step_4")) for c in (whole, killed))
    assert {name.partition(".")[0] for name in first} == {"weights", "average", "optimizer"}
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def stopped(bags, tmp_path_factory):
    """The run_dir of a run that ended after two steps."""
    folder = tmp_path_factory.mktemp("stopped")
    run(small_config(folder, bags, "optimizer.num_steps=2"))
    return folder / "run"


def resumed(tmp_path, stopped, bags, *overrides):
    """The lines of going on with ``stopped`` to step 4, and the trainer."""
    shutil.copytree(stopped, tmp_path / "run")
    trainers, lines = [], []

    class Watched(Trainer):
        def __init__(self, *args):
            trainers.append(self)
            super().__init__(*args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("vla_ros.training.run.Trainer", Watched)
        run(small_config(tmp_path, bags, *overrides), lines.append)
    return lines, trainers[0]


def test_a_resumed_run_says_which_settings_changed_and_goes_on_with_them(bags, stopped, tmp_path):
    changes = {"beta1": 0.5, "beta2": 0.7, "weight_decay": 0.3, "batch_size": 4, "num_steps": 4}
    changes = {f"optimizer.{name}": value for name, value in changes.items()} | {"lr.base": 1e-5, "lr.expert": 1e-6}
    overrides = [f"++{name}={value}" for name, value in changes.items()]
    lines, trainer = resumed(tmp_path, stopped, bags, *overrides)
    for name, value in changes.items():
        (line,) = (line for line in lines if line.startswith(f"{name} was "))
        assert line.endswith(f" and is {value} from step 2 on")
    for group in trainer._optimizer.param_groups:
        assert (group["betas"], group["weight_decay"]) == ((0.5, 0.7), 0.3)
        assert 0 < group["lr"] <= (1e-6 if group["part"] == "expert" else 1e-5)
    again = []
    run(small_config(tmp_path, bags, *overrides), again.append)
    assert not any(" was " in line for line in again), "what was said once is what the run has from then on"


def test_a_resumed_run_that_is_as_it_was_says_nothing_of_settings(bags, stopped, tmp_path):
    config, lines = small_config(stopped.parent, bags, "optimizer.num_steps=2"), []
    run(config, lines.append)
    assert not any(" was " in line for line in lines) and any("resumed" in line for line in lines)


def test_a_run_goes_on_from_anywhere_with_nothing_but_its_folder(bags, tmp_path, monkeypatch):
    shutil.copytree(bags[0].parent, tmp_path / "here" / "bags")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    places = ("bags=bags", "run_dir=run", "output_dir=policy", "lesson.demonstrations_dir=made")
    run(small_config(tmp_path, bags, *places, "optimizer.num_steps=2"))
    monkeypatch.chdir(tmp_path / "there")
    lines, found = [], str(tmp_path / "here" / "run" / RUN_CONFIG)
    run(load_train_config(share_dir() / "config", found, ["optimizer.num_steps=3"]), lines.append)
    said = [line for line in lines if " was " in line]
    assert said == ["optimizer.num_steps was 2 and is 3 from step 2 on"] and list((tmp_path / "there").iterdir()) == []
    steps = [json.loads(line)["step"] for line in (tmp_path / "here" / "run" / METRICS).read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_a_run_has_its_versions_and_one_that_goes_on_with_others_says_so(bags, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "old")
    versions = json.loads((stopped / VERSIONS).read_text())
    assert versions["torch"] == torch.__version__ and versions["python"] == platform.python_version()
    (tmp_path / "old" / VERSIONS).write_text(json.dumps(versions | {"torch": "2.0.1"}))
    lines, _ = resumed(tmp_path, tmp_path / "old", bags)
    assert f"torch was 2.0.1 and is {torch.__version__} from step 2 on" in lines
    assert json.loads((tmp_path / "run" / VERSIONS).read_text()) == versions
    (tmp_path / "run" / VERSIONS).write_text("{")
    with pytest.raises(ValueError, match=r"versions.json: .*; delete it"):
        run(small_config(tmp_path, bags))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["seed=1"], ["seed was 0 and is 1"]),
        (
            ["seed=1", "data.normalization=quantile", "+optimizer.beta1=0.5"],
            ["seed was 0 and is 1", "data.normalization was mean_std and is quantile"],
        ),
        (["policy.action_expert_cfg.hidden_size=64"], ["policy.action_expert_cfg.hidden_size was 32 and is 64"]),
        (["validation_share=0.4"], ["validation_share was 0.2 and is 0.4"]),
        (["lesson.vision_pos_emb_init_gain=0.4"], ["lesson.vision_pos_emb_init_gain was 0.5 and is 0.4"]),
        (["min_frame_gap_s=0.5"], ["min_frame_gap_s was 0.0 and is 0.5"]),
        (["optimizer.num_steps=1"], ["optimizer.num_steps is 1 and ", "at step 2; expected more steps"]),
    ],
)
def test_settings_that_the_weights_were_made_with_cannot_change_in_a_run(bags, stopped, tmp_path, changes, named):
    with pytest.raises(ValueError) as refused:
        resumed(tmp_path, stopped, bags, *changes)
    assert all(name in str(refused.value) for name in named) and "\n" not in str(refused.value)
    assert (tmp_path / "run" / "settings.json").read_bytes() == (stopped / "settings.json").read_bytes()


def test_a_run_that_cannot_go_on_is_refused_before_bags_are_read(bags, stopped, tmp_path, monkeypatch):
    monkeypatch.setattr("vla_ros.training.run.load_bags", lambda *args: pytest.fail("bags were read"))
    with pytest.raises(ValueError, match="cannot be resumed: seed was 0 and is 1; set back what changed"):
        resumed(tmp_path, stopped, bags, "seed=1")


def test_a_run_does_not_go_on_with_other_bags_but_does_where_they_were_moved(bags, robot, stopped, tmp_path):
    shutil.copytree(bags[0], tmp_path / "moved" / "demo")
    lines, _ = resumed(tmp_path / "same", stopped, bags, f"bags={tmp_path / 'moved'}")
    assert any(line.startswith("bags was ") for line in lines)
    shutil.copytree(bags[0], tmp_path / "moved" / "again")
    with pytest.raises(ValueError, match=r"samples was 36 of 6 episodes \(\w+\) and is 72 of 12 episodes"):
        resumed(tmp_path / "more", stopped, bags, f"bags={tmp_path / 'moved'}")


def test_the_log_has_the_mean_loss_of_the_steps_since_the_last_record(bags, tmp_path, monkeypatch, capsys):
    losses, step = [], Trainer._train_step
    monkeypatch.setattr(Trainer, "_train_step", lambda trainer: losses.append(step(trainer)) or losses[-1])
    run(small_config(tmp_path, bags))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    expected = [np.mean(losses[:2]), np.mean(losses[2:])]
    assert [record["loss"] for record in log] == pytest.approx(expected, abs=1e-5) and len(losses) == 4
    rates = re.findall(r"([\d.]+) samples/s", capsys.readouterr().err)
    assert rates and min(map(float, rates)) > 0


def test_a_run_whose_loss_is_no_longer_finite_ends_and_keeps_its_checkpoint(bags, tmp_path, stopped):
    said = r"step \d: the loss is (nan|inf); lower lr.base; --resume goes on from step_2"
    with pytest.raises(ValueError, match=said):
        resumed(tmp_path, stopped, bags, "lr.base=1e30", "optimizer.num_steps=9", "checkpoint_every=9")
    assert [path.name for path in find_checkpoints(tmp_path / "run")] == ["step_2"]
    assert contents(tmp_path / "run" / "step_2") == contents(stopped / "step_2")


def test_a_step_whose_gradient_is_not_finite_is_in_no_checkpoint(bags, tmp_path, monkeypatch):
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: clip(*args) * float("inf"))
    with pytest.raises(ValueError, match="step 1: the norm of the gradient is inf; lower lr.base$"):
        run(small_config(tmp_path, bags, "checkpoint_every=1"))
    assert find_checkpoints(tmp_path / "run") == []


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
