"""Checkpoints of a run: refused by name where they aren't whole or not its own, exported with nothing but the run."""

import errno
import os
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file
from training_helpers import run, small_config, stored_tensors

from vla_ros.cli.command_line import main
from vla_ros.policies.directory import load_policy
from vla_ros.training.checkpoints import (
    CheckpointInfo,
    CheckpointWriter,
    check_stored,
    read_info,
    read_stored,
    read_tensors,
)
from vla_ros.training.export import export_policy
from vla_ros.training.processes import joined


@pytest.fixture(scope="module")
def stopped(bags, tmp_path_factory):
    """The run_dir of a run that ended after two steps, each with its checkpoint."""
    folder = tmp_path_factory.mktemp("stopped")
    run(small_config(folder, bags, "optimizer.num_steps=2", "checkpoint_every=1"))
    return folder / "run"


def resume(tmp_path, stopped, bags, *overrides):
    """The lines of going on with a copy of ``stopped`` to step 4."""
    lines = []
    shutil.copytree(stopped, tmp_path / "run", dirs_exist_ok=True)
    run(small_config(tmp_path, bags, *overrides), lines.append)
    return lines


def test_a_pickled_checkpoint_of_an_earlier_release_is_refused_by_name(bags, tmp_path, monkeypatch):
    monkeypatch.setattr("vla_ros.training.run.load_bags", lambda *args: pytest.fail("bags were read"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="run/checkpoint.pt is a checkpoint of an earlier release, a p") as refused:
        run(small_config(tmp_path, bags))
    assert "\n" not in str(refused.value)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "harm", "named"),
    [
        ("*.safetensors", flip, r"shard-\S+: its checksum is another one than when it was written"),
        ("*.safetensors", lambda path: path.write_bytes(path.read_bytes()[:99]), r"has 99 bytes; expected \d+"),
        ("*.safetensors", lambda path: path.unlink(), r"has 0 bytes; expected \d+"),
        ("checkpoint.json", lambda path: path.unlink(), "checkpoint.json: No such file or directory"),
        ("checkpoint.json", lambda path: path.write_text(path.read_text()[:50]), "checkpoint.json: "),
        (".", lambda path: path.rename(path.with_name("step_3")), "checkpoint.json says step 2"),
    ],
)
def test_a_damaged_newest_checkpoint_is_named_and_not_passed_over(bags, stopped, tmp_path, name, harm, named):
    shutil.copytree(stopped, tmp_path / "run")
    newest = tmp_path / "run" / "step_2"
    harm(next(newest.glob(name)) if name != "." else newest)
    said = rf"run/step_[23]: damaged \(.*{named}.*\); .* to go on from step_1$"
    with pytest.raises(ValueError, match=said) as refused:
        run(small_config(tmp_path, bags))
    assert "\n" not in str(refused.value)


def test_what_a_killed_run_had_begun_is_removed_and_never_read(bags, stopped, tmp_path):
    (tmp_path / "run" / "step_3.0badcafe.partial").mkdir(parents=True)
    lines = resume(tmp_path, stopped, bags)
    assert any(line.endswith("step_2 at step 2") for line in lines)
    assert sorted(path.name for path in (tmp_path / "run").glob("step_*")) == ["step_2", "step_4"]


def test_a_checkpoint_of_another_run_is_refused_by_name(bags, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    config = small_config(tmp_path, bags, "seed=5")
    (tmp_path / "run" / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="run/step_2 cannot be resumed: seed was 0 and is 5; set back"):
        run(config)
    with pytest.raises(ValueError, match="run/step_2 is not of this run: before_takeover_s was .* more;"):
        export_policy(tmp_path / "run", tmp_path / "policy")


def test_any_checkpoint_can_be_exported_with_nothing_but_the_run(stopped, tmp_path, capsys):
    shutil.copytree(stopped, tmp_path / "moved")
    assert main(["train", "--export", str(tmp_path / "moved"), "--out", str(tmp_path / "newest")]) == 0
    assert capsys.readouterr().out == f"policy directory of {tmp_path}/moved/step_2: {tmp_path}/newest\n"
    assert main(["train", "--export", f"{tmp_path}/moved@1", "--out", str(tmp_path / "older")]) == 0
    at_its_end, newest = (
        load_file(path / "model.safetensors") for path in (stopped.parent / "policy", tmp_path / "newest")
    )
    older = load_policy(tmp_path / "older", "cpu").policy
    checkpoint = stored_tensors(stopped / "step_1")
    for name, value in older.named_parameters():
        assert torch.equal(at_its_end[name], newest[name]) and torch.equal(value, checkpoint[f"average.{name}"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--export", "RUN@3", "--out", "x"], "run has no step_3; its checkpoints are step_1, step_2: give"),
        (["--export", "none", "--out", "x"], "none has no checkpoint; its checkpoints are none"),
        (["--export", "RUN"], "--export without --out; expected --export RUN[@STEP] --out DIR"),
        (["--export", "a", "--out", "x", "--resume", "b", "c=1"], "--export beside --resume c=1; expected --export"),
    ],
)
def test_an_export_of_nothing_or_beside_something_is_refused(stopped, capsys, options, said):
    assert main(["train", *(option.replace("RUN", str(stopped)) for option in options)]) == 2
    assert said in capsys.readouterr().err


def test_a_disk_without_room_for_the_checkpoints_is_refused_before_bags_are_read(bags, stopped, tmp_path, monkeypatch):
    monkeypatch.setattr("vla_ros.training.run.load_bags", lambda *args: pytest.fail("bags were read"))
    num_bytes = sum(file.stat().st_size for file in (stopped / "step_2").glob("*.safetensors"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(2.5 * num_bytes)))
    with pytest.raises(ValueError, match=r"free for 3 checkpoints of 0.0 GB .*: make room, set keep_checkpoints, or"):
        run(small_config(tmp_path / "new", bags))
    with pytest.raises(pytest.fail.Exception, match="bags were read"):  # those that are there are to go
        resume(tmp_path, stopped, bags)


def begin(writer, step, value=0.0):
    writer.save(CheckpointInfo(step, 1.0, 8 * step, {"seed": 0}), {"weights.a": torch.full((3, 2), value)})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_whole_or_absent_and_what_was_trained_meanwhile_is_not_in_it(tmp_path, monkeypatch):
    sync, is_free = os.fsync, threading.Event()
    monkeypatch.setattr(os, "fsync", lambda descriptor: is_free.wait(60) and sync(descriptor))
    weight = torch.ones(3, 2)
    with joined() as processes, CheckpointWriter(tmp_path, 2, processes) as writer:
        writer.save(CheckpointInfo(7, 1.0, 56, {}), {"weights.a": weight})
        weight.zero_()  # the run goes on
        writer.check()
        assert [path.suffix for path in tmp_path.iterdir()] in ([], [".partial"])
        is_free.set()
        writer.wait()
        assert names(tmp_path) == ["step_7"]
    assert {path.suffix for path in (tmp_path / "step_7").iterdir()} == {".json", ".safetensors"}, "nothing is pickled"
    info, read = read_info(tmp_path / "step_7"), {"weights.a": torch.zeros(3, 2)}
    assert (info.step, info.num_drawn, len(info.files)) == (7, 56, 1)
    read_tensors(tmp_path / "step_7", read, alone=True)
    assert torch.equal(read["weights.a"], torch.ones(3, 2))


def test_the_newest_are_kept_and_one_that_fails_leaves_them_and_says_why(tmp_path, monkeypatch):
    with joined() as processes:
        with CheckpointWriter(tmp_path, 2, processes) as writer:
            for step in (9, 10, 11):
                begin(writer, step)
        assert names(tmp_path) == ["step_10", "step_11"]

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(
            ValueError, match="step_12 can't be written: No space left on device; change that, and go on"
        ):
            with CheckpointWriter(tmp_path, 2, processes) as writer:
                begin(writer, 12)
        with pytest.raises(KeyboardInterrupt):  # what ended the run comes first
            with CheckpointWriter(tmp_path, 2, processes) as writer:
                begin(writer, 13)
                raise KeyboardInterrupt
    assert names(tmp_path) == ["step_10", "step_11"]


def test_tensors_of_another_policy_are_named(tmp_path):
    with joined() as processes, CheckpointWriter(tmp_path, 2, processes) as writer:
        begin(writer, 1)
    stored = read_stored(tmp_path / "step_1")
    check_stored(stored, {"weights.a": torch.zeros(3, 2)})
    for wanted in (
        {"weights.a": torch.zeros(2, 3)},
        {"weights.b": torch.zeros(3, 2)},
        {"weights.a": torch.ones(3, 2).half()},
    ):
        with pytest.raises(ValueError, match=r"of another policy: it has weights.a torch.float32 \[3, 2\]; expected w"):
            check_stored(stored, wanted)


def test_processes_that_see_different_folders_write_no_checkpoint(tmp_path, monkeypatch):
    of_torch = torch.distributed.gather_object

    def gather(*args, **options):  # torch's own writer gathers, too
        if options:
            return of_torch(**options)
        own, parts, *_ = args
        parts[:] = [own, own._replace(names=["shard-00002-model-00001-of-00001.safetensors"])]

    monkeypatch.setattr("torch.distributed.gather_object", gather)
    with joined() as processes, pytest.raises(ValueError, match="step_1 can't be written: some processes don't see"):
        with CheckpointWriter(tmp_path, 2, processes) as writer:
            begin(writer, 1)
    assert names(tmp_path) == []
