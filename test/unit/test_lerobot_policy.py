"""A policy that an installed LeRobot runs, from a checkpoint of its own making to everything that runs one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lerobot_made_helpers import (  # noqa: E402
    BEFORE,
    FRONT,
    HORIZONS,
    ROBOT,
    SMOLVLA,
    TOP,
    Made,
    do_import,
    edit,
    make,
    needs_lerobot,
    observation,
    require,
)

from vla_ros.cli import main  # noqa: E402
from vla_ros.execution.runner import PolicyRunner  # noqa: E402
from vla_ros.policies.base import PolicyUnavailable  # noqa: E402
from vla_ros.policies.directory import load_policy  # noqa: E402
from vla_ros.policies.files import load_processor  # noqa: E402
from vla_ros.policies.fill import build_policy  # noqa: E402
from vla_ros.policies.lerobot.checkpoint import copy_checkpoint  # noqa: E402
from vla_ros.policies.lerobot.processor import LeRobotRequest  # noqa: E402
from vla_ros.policies.lerobot.running import HostDraws, LeRobotRun, seeded  # noqa: E402
from vla_ros.types import Continuation, Observation  # noqa: E402
from vla_ros.wire import decode_request, encode_request  # noqa: E402


def theirs(made: Made, seen: Observation, seed: int, num_actions: int) -> np.ndarray:
    """What LeRobot's own loop executes after an episode began, in the recording robot's units."""
    batch: dict[str, Any] = {
        key: torch.from_numpy(seen.images[name].transpose(2, 0, 1)).float()[None] / 255
        for key, name in ((FRONT, "front"), (TOP, "top"))
    }
    batch["observation.state"] = torch.from_numpy(np.degrees(seen.joint_positions)).float()[None]
    batch["task"] = seen.task
    made.policy.reset()
    with torch.no_grad(), seeded(seed, torch.device("cpu")):
        actions = [made.after(made.policy.select_action(made.before(batch))) for _ in range(num_actions)]
    return torch.cat(actions).numpy()


@pytest.fixture(params=["act", "diffusion"])
def kind(request: pytest.FixtureRequest) -> str:
    require(request.param)
    return str(request.param)


@pytest.fixture
def act_dir(tmp_path: Path) -> Path:
    require("act")
    make(tmp_path / "act", "act")
    assert do_import(tmp_path / "act", tmp_path / "policy") == 0
    return tmp_path / "policy"


def test_the_model_node_gets_the_actions_that_lerobot_executes(kind: str, tmp_path: Path) -> None:
    made, out = make(tmp_path / "theirs", kind), tmp_path / "policy"
    assert do_import(made.folder, out) == 0
    made.folder.rename(tmp_path / "gone")
    loaded, processor = load_policy(out, "cpu"), load_processor(out)
    assert loaded.digest == processor.digest and not loaded.drift
    assert [note for note in loaded.notes if "2 observations in a row" in note] == list(loaded.notes)
    assert bool(loaded.notes) == (kind == "diffusion")
    runner = PolicyRunner(loaded.policy, loaded.device)
    assert runner.waits_for == f"LeRobot's own '{kind}' in this process on cpu"
    for seed in (1, 2, 1):  # the third knows nothing of the second
        seen = observation(seed)
        request = processor.process(seen)
        assert isinstance(request, LeRobotRequest)
        actions = runner.run(request).actions
        assert actions.shape == (HORIZONS[kind], 3)
        expected = theirs(made, seen, int(request.noise[0]), 5)
        np.testing.assert_allclose(actions[:5], expected, atol=1e-4)
        chunk = processor.decode(actions, seen)
        np.testing.assert_allclose(np.degrees(chunk.positions), actions, atol=1e-4)
        assert chunk.offset == 0.0
    runner.close()
    with pytest.raises(PolicyUnavailable, match=f"LeRobot's '{kind}' isn't loaded any more"):
        runner.run(request)


def test_it_moves_the_robot_as_the_family_here_does(tmp_path: Path) -> None:
    require("act")
    made = make(tmp_path / "theirs", "act")
    assert do_import(made.folder, tmp_path / "run_by_lerobot") == 0
    given = ["--robot", str(ROBOT), "--space", str(tmp_path / "space.yaml")]
    assert main(["import", str(made.folder), str(tmp_path / "native"), *given]) == 0
    chunks = []
    for name in ("run_by_lerobot", "native"):
        loaded = load_policy(tmp_path / name, "cpu")
        request = loaded.processor.process(observation())
        actions = PolicyRunner(loaded.policy, loaded.device).run(request).actions
        chunks.append(loaded.processor.decode(actions, observation()))
    np.testing.assert_allclose(chunks[0].positions, chunks[1].positions, atol=1e-5)
    assert (chunks[0].chunk_dt_s, chunks[0].offset) == (chunks[1].chunk_dt_s, chunks[1].offset)


def test_actions_that_are_relative_are_absolute_when_they_come(tmp_path: Path) -> None:
    """LeRobot's own processors keep the state of the observation that a chunk answers."""
    require("act")
    made, chunks = make(tmp_path / "theirs", "act"), []
    for is_relative in (False, True):
        if is_relative:
            step = {"registry_name": "relative_actions_processor", "config": {"enabled": True}}
            edit(made.folder / BEFORE, lambda d: d["steps"].insert(1, step))
            step_after = {"registry_name": "absolute_actions_processor", "config": {"enabled": True}}
            edit(made.folder / "policy_postprocessor.json", lambda d: d["steps"].insert(1, step_after))
        assert do_import(made.folder, tmp_path / f"policy_{is_relative}") == 0
        loaded = load_policy(tmp_path / f"policy_{is_relative}", "cpu")
        runner = PolicyRunner(loaded.policy, loaded.device)
        chunks += [runner.run(loaded.processor.process(observation(seed))).actions for seed in (1, 2)]
    for seed in (1, 2):
        state = np.degrees(observation(seed).joint_positions)
        np.testing.assert_allclose(chunks[seed + 1], chunks[seed - 1] + state, atol=1e-4)


@needs_lerobot
def test_a_policy_that_reads_text_and_queues_its_own_chunks_gives_the_recorded_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LeRobot's SmolVLA: it renames keys, needs a tokenizer, and makes an episode's first chunk another way."""
    from lerobot.policies.smolvla import modeling_smolvla, smolvlm_with_expert
    from safetensors import safe_open

    with safe_open(SMOLVLA / "case.safetensors", framework="np") as file:
        case, task = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["task"]
    vlm = smolvlm_with_expert.AutoConfig.from_pretrained(SMOLVLA / "vlm")
    tokens = SimpleNamespace(tokenizer=SimpleNamespace(fake_image_token_id=0, global_image_token_id=0))
    for name, found in (("AutoConfig", vlm), ("AutoProcessor", tokens)):  # LeRobot looks them up by name on the hub
        given = SimpleNamespace(from_pretrained=lambda *_, found=found: found)
        monkeypatch.setattr(smolvlm_with_expert, name, given)
    noise = torch.from_numpy(case["in.noise"])
    monkeypatch.setattr(modeling_smolvla.VLAFlowMatching, "sample_noise", lambda *_: noise)
    folder, keys = tmp_path / "checkpoint", [f"observation.images.camera{i}" for i in (1, 2)]
    copy_checkpoint(SMOLVLA / "checkpoint", folder, str(SMOLVLA / "tokenizer"))
    run = LeRobotRun(folder, "smolvla", keys, torch.device("cpu"))
    images = [case[f"in.observation.images.{name}"] for name in ("top", "wrist")]
    for _ in range(2):
        actions = run.run(images, case["in.observation.state"][None], task, 0)
        np.testing.assert_allclose(actions, case["out.actions_10_steps"][0], atol=2e-4)


def test_a_policy_that_draws_noise_draws_that_of_the_observation(tmp_path: Path) -> None:
    require("diffusion")
    make(tmp_path / "theirs", "diffusion")
    assert do_import(tmp_path / "theirs", tmp_path / "policy") == 0
    loaded = load_policy(tmp_path / "policy", "cpu")
    runner, processor = PolicyRunner(loaded.policy, loaded.device), loaded.processor
    seen = observation()
    later = Observation(seen.stamp_ns, dict.fromkeys(seen.images, 99), seen.images, seen.joint_positions, seen.task)
    state = torch.get_rng_state()
    first, again, other = (runner.run(processor.process(each)).actions for each in (seen, seen, later))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert torch.equal(state, torch.get_rng_state()), "nobody else's random numbers changed"


def test_the_request_is_the_same_after_the_wire(act_dir: Path) -> None:
    request = load_processor(act_dir).process(observation())
    message = decode_request(encode_request(request))
    back = LeRobotRequest.from_tensors(message.tensors, message.metadata)
    for name, array in request.to_tensors().items():
        np.testing.assert_array_equal(array, back.to_tensors()[name])
    policy = build_policy(load_processor(act_dir).config)
    policy.check_request(back)
    for changes in ({"images": back.images[:1]}, {"state": back.state[:, :2]}, {"noise": back.prompt[:1]}):
        with pytest.raises(ValueError, match="give both nodes the same policy directory"):
            policy.check_request(replace(back, **changes))


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (KeyError("observation.images.left"), "LeRobot's 'act' fails: KeyError: 'observation.images.left'"),
        (np.full((10, 3), np.nan, np.float32), "LeRobot's 'act' gives actions that are not finite"),
        (np.zeros((9, 3), np.float32), r"LeRobot's 'act' gives actions \[9, 3\]; expected \[10, 3\], as at import"),
    ],
)
def test_what_goes_wrong_in_an_inference_is_one_line(
    act_dir: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, line: str
) -> None:
    loaded = load_policy(act_dir, "cpu")
    runner, request = PolicyRunner(loaded.policy, loaded.device), loaded.processor.process(observation())

    def run(*_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(LeRobotRun, "run", run)
    with pytest.raises(PolicyUnavailable, match=line) as caught:
        runner.run(request)
    assert "\n" not in str(caught.value)


def test_another_answer_than_at_import_is_drift(act_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = LeRobotRun.run
    monkeypatch.setattr(LeRobotRun, "run", lambda *given: run(*given) + np.float32([0, 0.1, 0]))
    with pytest.raises(ValueError, match=r"output drifted: number 1 of the golden actions differs by up to 0\.1"):
        load_policy(act_dir, "cpu")


def test_nobody_claims_that_it_waits_for_nothing(act_dir: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["audit", "--policy", str(act_dir)]) == 1
    assert "each inference waits for LeRobot's own 'act' in this process" in capsys.readouterr().out
    assert main(["bench", "--policy", str(act_dir), "--device", "cpu"]) == 2
    assert "is computed by LeRobot's own 'act'" in capsys.readouterr().err
    processor = load_processor(act_dir)
    with pytest.raises(ValueError, match=r"given no chunk to continue\); choose another strategy than rtc"):
        processor.process(observation(), Continuation(np.zeros((10, 3)), 1))
    with pytest.raises(ValueError, match="LeRobot computes isn't trained here"):
        type(processor).for_training(processor.config, processor.data, {}, None, None)


def test_a_checkpoint_that_changed_since_import_is_refused(act_dir: Path) -> None:
    weights = act_dir / "checkpoint" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match=r"checkpoint/model.safetensors is not what it was at import"):
        load_policy(act_dir, "cpu")
    weights.write_bytes(kept)
    (act_dir / "checkpoint" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint/ holds optimizer.pt besides"):
        load_policy(act_dir, "cpu")


def test_another_device_draws_what_the_host_draws() -> None:
    draws: list[Callable[[str], Any]] = [
        lambda device: torch.randn(3, device=device),
        lambda device: torch.rand((2, 2), device=device, dtype=torch.float64),
        lambda device: torch.normal(mean=0.0, std=1.0, size=(4,), device=device),
        lambda device: torch.randn_like(torch.empty(5, device=device)),
        lambda device: torch.empty(6, device=device).normal_(),
    ]
    for draw in draws:
        torch.manual_seed(3)
        on_host = draw("cpu")
        after = torch.rand(1)
        torch.manual_seed(3)
        with HostDraws():
            elsewhere = draw("meta")
        assert elsewhere.device.type == "meta" and elsewhere.shape == on_host.shape
        assert torch.equal(after, torch.rand(1)), "the host's generator has moved on by as much"
