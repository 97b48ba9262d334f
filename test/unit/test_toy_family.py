"""A family of policies without a VLM, through everything that runs a policy, by its folder and its registration."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")

import toy_family  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from toy_family.config import ToyConfig  # noqa: E402
from toy_family.processor import ToyProcessor, ToyRequest  # noqa: E402

from vla_ros.cli import main  # noqa: E402
from vla_ros.execution.runner import PolicyRunner  # noqa: E402
from vla_ros.policies.config import DataConfig  # noqa: E402
from vla_ros.policies.directory import infer, load_policy, save_policy  # noqa: E402
from vla_ros.policies.files import load_processor, open_policy  # noqa: E402
from vla_ros.policies.fill import build_policy  # noqa: E402
from vla_ros.robot import load_robot  # noqa: E402
from vla_ros.share import robot_file  # noqa: E402
from vla_ros.training.config import LearningRates, OptimizerConfig, TrainConfig  # noqa: E402
from vla_ros.training.episodes import LearnFrom  # noqa: E402
from vla_ros.training.processes import joined  # noqa: E402
from vla_ros.training.run import train  # noqa: E402
from vla_ros.transforms.normalize import compute_stats  # noqa: E402
from vla_ros.transforms.sample import TextTarget, TrainingBatch  # noqa: E402
from vla_ros.types import Continuation, Observation  # noqa: E402
from vla_ros.wire import decode_request, encode_request  # noqa: E402

FOLDER = Path(toy_family.__file__).parent
BAG = FOLDER.parents[1] / "data" / "tabletop_touch"
HORIZON = 10


def make_processor() -> ToyProcessor:
    """For the packaged robot."""
    robot, rng = load_robot(robot_file("tabletop")), np.random.default_rng(0)
    num, camera = robot.num_joints, robot.cameras[0]
    config = ToyConfig("Toy", HORIZON, num, num, camera_height=camera.height, camera_width=camera.width)
    stats = {
        name: compute_stats(0.1 * rng.normal(size=(50, rows, num))) for name, rows in (("state", 1), ("action", 10))
    }
    return ToyProcessor(config, DataConfig(robot.joint_names, robot.camera_names, HORIZON, chunk_dt_s=0.1), stats)


def observation(processor: ToyProcessor, task: str = "touch the red block", seed: int = 0) -> Observation:
    rng, names = np.random.default_rng(seed), processor.camera_names
    images = {name: rng.integers(0, 256, (*processor.camera_size, 3), np.uint8) for name in names}
    return Observation(7, dict.fromkeys(names, 7), images, rng.normal(size=len(processor.joint_names)), task)


@pytest.fixture
def policy_dir(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    processor = make_processor()
    save_policy(tmp_path / "toy", build_policy(processor.config), processor, observation(processor))
    return tmp_path / "toy"


def test_it_is_a_small_folder() -> None:
    assert sum(len(path.read_text().splitlines()) for path in FOLDER.glob("*.py")) < 150


def test_a_saved_policy_loads_on_both_sides(policy_dir: Path) -> None:
    files = sorted(path.name for path in policy_dir.rglob("*") if path.is_file())
    assert files == ["golden.safetensors", "model.safetensors", "norm_stats.json", "policy.yaml"]
    loaded, processor = load_policy(policy_dir, "cpu"), load_processor(policy_dir)
    assert isinstance(processor, ToyProcessor) and processor.config == make_processor().config
    assert loaded.digest == processor.digest and not loaded.drift
    request = processor.process(observation(processor, seed=1))
    actions = infer(loaded.policy, request, torch.device("cpu"))
    assert processor.decode(actions, observation(processor, seed=1)).positions.shape == (HORIZON, 6)
    runner = PolicyRunner(loaded.policy, torch.device("cpu"))
    inference = runner.run(request)
    np.testing.assert_allclose(inference.actions, actions, atol=1e-6)
    assert list(inference.timings_ms) == ["copy_in", "sample", "copy_out"]


def test_the_golden_case_is_kept_and_drift_is_refused(policy_dir: Path) -> None:
    golden = open_policy(policy_dir).golden
    assert (
        isinstance(golden.request, ToyRequest) and golden.request.letters[:5].tobytes().replace(b"\0", b"") == b"touch"
    )
    weights = load_file(policy_dir / "model.safetensors")
    save_file({**weights, "outer.weight": 1.1 * weights["outer.weight"]}, policy_dir / "model.safetensors")
    with pytest.raises(ValueError, match="output drifted: golden actions differ"):
        load_policy(policy_dir, "cpu")
    stats = policy_dir / "norm_stats.json"
    document = json.loads(stats.read_text())
    document["state"]["q99"][0][0] += 1.0
    stats.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="preprocessing drifted: golden state differs"):
        load_processor(policy_dir)


def test_a_request_comes_back_from_the_wire_as_it_was_sent(policy_dir: Path) -> None:
    request = open_policy(policy_dir).golden.request
    message = decode_request(encode_request(request))
    back = ToyRequest.from_tensors(message.tensors, message.metadata)
    assert back.stamp_ns == request.stamp_ns and not back.is_guided
    for name, array in request.to_tensors().items():
        np.testing.assert_array_equal(back.to_tensors()[name], array)
    with pytest.raises(ValueError, match="tensor 'letters' is missing; expected images, letters, state"):
        ToyRequest.from_tensors({"images": request.images, "state": request.state}, message.metadata)
    with pytest.raises(ValueError, match="lacks a usable stamp_ns"):
        ToyRequest.from_tensors(message.tensors, {})


def test_a_chunk_to_continue_is_refused_in_one_line(policy_dir: Path) -> None:
    processor, policy = load_processor(policy_dir), load_policy(policy_dir, "cpu").policy
    seen = observation(processor)
    with pytest.raises(
        ValueError, match=r"Toy cannot continue a chunk \(it was .*\); choose another strategy than rtc"
    ):
        processor.process(seen, Continuation(np.zeros((HORIZON, 6)), 1))
    with pytest.raises(ValueError, match="Toy cannot continue a chunk"):
        load_policy(policy_dir, "cpu", with_guidance=True)
    zeros, ones = np.zeros((HORIZON, 6), np.float32), np.ones(HORIZON, np.float32)
    request = replace(processor.process(seen), previous_actions=zeros, guidance_weights=ones)
    with pytest.raises(ValueError, match="request continues a chunk, which a Toy can't"):
        PolicyRunner(policy, torch.device("cpu")).run(request)


def test_two_steps_of_training_on_a_bag_make_a_policy_directory(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(BAG, tmp_path / "bags" / name)
    processor, optimizer, lr = make_processor(), OptimizerConfig(2, batch_size=8, warmup_steps=1), LearningRates(1e-2)
    run_dir, output_dir = (str(tmp_path / name) for name in ("run", "policy"))
    places = ((str(tmp_path / "bags"),), run_dir, output_dir)
    whoever = LearnFrom(1, 1, 1)  # the bag's driver is a policy
    made_of = (processor.config, processor.data, optimizer, lr)
    config = TrainConfig("tabletop", *places, *made_of, learn_from=whoever, num_workers=1, device="cpu")
    with joined() as processes:
        report = train(config, robot_file("tabletop"), processes, lambda line: None)
    assert report.num_steps == 2 and report.num_samples > 20 and np.isfinite(report.validation.error_rad).all()
    loaded = load_policy(tmp_path / "policy", "cpu")
    torch.manual_seed(config.seed)
    start = build_policy(processor.config)
    assert all(
        not torch.equal(new, old) for new, old in zip(loaded.policy.parameters(), start.parameters(), strict=True)
    )
    request = load_processor(tmp_path / "policy").process(observation(processor))
    assert infer(loaded.policy, request, torch.device("cpu")).shape == (HORIZON, 6)


def test_its_loss_falls_with_a_step_down_the_gradient() -> None:
    torch.manual_seed(0)
    processor, policy = make_processor(), build_policy(make_processor().config)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, len(processor.camera_names), *processor.camera_size, 3), np.uint8)
    states, actions = (rng.normal(size=(4, rows, 6)).astype(np.float32) for rows in (1, HORIZON))
    inputs = processor.make_batch(images, ["touch it"] * 4, states, [TextTarget()] * 4)
    sample = policy.unpack_batch(TrainingBatch(inputs, states, actions))
    loss = policy.compute_loss(sample, None)
    loss.total.backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter -= 0.1 * parameter.grad
    assert policy.compute_loss(sample, None).total < loss.total


def test_a_replay_gives_what_it_gave_and_sees_another_policy(policy_dir: Path, tmp_path: Path, capsys) -> None:
    baseline = str(tmp_path / "baseline.json")
    replay = ["replay", str(BAG), "--policy", str(policy_dir), "--baseline", baseline]
    assert main([*replay, "--update-baseline"]) == 0
    first = Path(baseline).read_bytes()
    assert len(json.loads(first)["bags"][0]["chunks"]) > 10
    assert main([*replay, "--out", str(tmp_path / "report.html")]) == 0
    assert main([*replay, "--update-baseline"]) == 0 and Path(baseline).read_bytes() == first
    weights = load_file(policy_dir / "model.safetensors")
    save_file({**weights, "outer.bias": weights["outer.bias"] + 0.3}, policy_dir / "model.safetensors")
    capsys.readouterr()
    assert main(replay) == 1
    assert "what the policy does changed" in capsys.readouterr().out


def test_the_audit_finds_nothing_that_waits(policy_dir: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    code = "import sys, toy_family; from vla_ros.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "audit", "--policy", str(policy_dir), "--json", str(report)]
    paths = ":".join((str(FOLDER.parent), str(FOLDER.parents[2])))
    run = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": paths})
    assert run.returncode == 0, run.stdout + run.stderr
    values = json.loads(report.read_text())
    assert values["waits"] == values["transfers"] == 0 and values["operators_per_step"] is None
    assert {"accelerator", "host", "graph"} <= set(values["passes"]) and all(
        part["complete"] for part in values["passes"].values()
    )
    assert values["passes"]["accelerator"]["declared_transfers"] == 2


def test_the_bench_measures_it_whole(policy_dir: Path, tmp_path: Path, capsys) -> None:
    report = tmp_path / "report.json"
    bench = ["bench", "--policy", str(policy_dir), "--device", "cpu", "--repeats", "2", "--json", str(report)]
    assert main(bench) == 0
    values = json.loads(report.read_text())
    assert set(values["stages_ms"]) == {"preprocessing", "copy_in", "sample", "copy_out"}
    assert all(value > 0 for value in values["stages_ms"].values()) and values["bound_ratio"] > 1
    assert values["num_cameras"] == 2 and values["horizon"] == HORIZON and not any(values["speedup"].values())
    assert "no tokens, chunk 10, no steps" in capsys.readouterr().out
    assert main(["bench", "--policy", str(policy_dir), "--scale", str(tmp_path / "growth.png")]) == 2
    assert "a Toy has no stages to sweep; leave --scale out" in capsys.readouterr().err


def test_a_family_that_is_not_registered_is_refused_with_those_that_are(policy_dir: Path) -> None:
    document = yaml.safe_load((policy_dir / "policy.yaml").read_text())
    document["policy"]["type"] = "os.system"
    (policy_dir / "policy.yaml").write_text(yaml.safe_dump(document))
    for load in (load_processor, lambda folder: load_policy(folder, "cpu")):
        with pytest.raises(
            ValueError, match="policy.yaml: policy.type is 'os.system'; expected one of PiPolicy, .*, Toy$"
        ):
            load(policy_dir)
