"""A policy that an installed LeRobot runs, from a checkpoint of its own making to everything that runs one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")

from vla_ros.cli import main  # noqa: E402
from vla_ros.execution.runner import PolicyRunner  # noqa: E402
from vla_ros.policies.base import PolicyUnavailable  # noqa: E402
from vla_ros.policies.directory import load_policy  # noqa: E402
from vla_ros.policies.files import load_processor  # noqa: E402
from vla_ros.policies.fill import build_policy  # noqa: E402
from vla_ros.policies.lerobot import installed  # noqa: E402
from vla_ros.policies.lerobot.checkpoint import check_files, copy_checkpoint  # noqa: E402
from vla_ros.policies.lerobot.processor import LeRobotRequest  # noqa: E402
from vla_ros.policies.lerobot.running import HostDraws, LeRobotRun, own_code_only, seeded  # noqa: E402
from vla_ros.types import Continuation, Observation  # noqa: E402
from vla_ros.wire import decode_request, encode_request  # noqa: E402

ROBOT = Path(__file__).parents[1] / "data" / "three_joints.yaml"
KEPT = Path(__file__).parents[1] / "data" / "lerobot_parity"
ACT, SMOLVLA = KEPT / "act_chunk" / "checkpoint", KEPT / "smolvla_base"
JOINTS = ["base", "shoulder", "wrist"]
FRONT, TOP = "observation.images.front", "observation.images.top"
SPACE: dict[str, Any] = {
    "chunk_dt_s": 0.1,
    "state": [{"type": "joints", "joints": JOINTS, "unit": "deg"}],
    "action": [{"type": "joints", "joints": JOINTS, "unit": "deg"}],
    "cameras": [{"key": FRONT, "camera": "front"}, {"key": TOP, "camera": "top"}],
}
BEFORE = "policy_preprocessor.json"
SMALL: dict[str, dict[str, Any]] = {
    "act": {
        "pretrained_backbone_weights": None,
        "chunk_size": 10,
        "n_action_steps": 5,
        "dim_model": 16,
        "n_heads": 2,
        "dim_feedforward": 16,
        "n_encoder_layers": 1,
        "use_vae": False,
    },
    "diffusion": {
        "pretrained_backbone_weights": None,
        "horizon": 8,
        "n_action_steps": 6,
        "down_dims": (16, 32),
        "diffusion_step_embed_dim": 16,
        "n_groups": 4,
        "spatial_softmax_num_keypoints": 4,
        "num_train_timesteps": 10,
        "num_inference_steps": 3,
        "use_group_norm": True,
    },
}
HORIZONS = {"act": 10, "diffusion": 6}
NEEDS = {"act": "lerobot", "diffusion": "diffusers"}


def require(kind: str) -> None:
    for package in ("lerobot", NEEDS[kind]):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}: the extra lerobot, and lerobot[diffusion] for diffusion")


needs_lerobot = pytest.mark.skipif(find_spec("lerobot") is None, reason="needs LeRobot: the extra lerobot")


@dataclass(frozen=True)
class Made:
    """A checkpoint in LeRobot's own hands."""

    folder: Path
    policy: Any
    before: Any
    after: Any


def make(folder: Path, kind: str) -> Made:
    """A small policy of LeRobot with random weights, saved by LeRobot."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import get_policy_class, make_policy_config
    from lerobot.policies.factory import make_pre_post_processors

    pictures = {key: PolicyFeature(FeatureType.VISUAL, (3, 24, 32)) for key in (FRONT, TOP)}
    inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (3,)), **pictures}
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (3,))}
    config = make_policy_config(kind, input_features=inputs, output_features=outputs, device="cpu", **SMALL[kind])
    config.normalization_mapping = dict.fromkeys(config.normalization_mapping, "MEAN_STD")
    rng = np.random.default_rng(0)
    stats = {
        key: {"mean": rng.uniform(-9, 9, 3), "std": rng.uniform(5, 9, 3)} for key in ("observation.state", "action")
    }
    stats |= {key: {"mean": np.full((3, 1, 1), 0.4), "std": np.full((3, 1, 1), 0.3)} for key in pictures}
    stats = {key: {name: array.astype(np.float32) for name, array in each.items()} for key, each in stats.items()}
    with seeded(0, torch.device("cpu")):
        policy = get_policy_class(kind)(config).eval()
    before, after = make_pre_post_processors(config, dataset_stats=stats)
    for each in (policy, before, after):
        each.save_pretrained(folder)
    document = json.loads((folder / "config.json").read_text())
    document["pretrained_backbone_weights"] = "ResNet18_Weights.IMAGENET1K_V1"  # as released ones have it
    (folder / "config.json").write_text(json.dumps(document))
    return Made(folder, policy, before, after)


def do_import(source: Path, out: Path, *options: str, space: Any = SPACE) -> int:
    path = out.parent / "space.yaml"
    path.write_text(yaml.safe_dump(space))
    given = ["--runner", "lerobot", "--robot", str(ROBOT), "--space", str(path)]
    return main(["import", str(source), str(out), *given, *options])


def refusal(capsys: pytest.CaptureFixture[str], source: Path, out: Path, *options: str, **changes: Any) -> str:
    assert do_import(source, out, *options, **changes) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("vla_ros import: ") and not out.exists(), "something was left behind"
    return message


def observation(seed: int = 1) -> Observation:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (24, 32, 3), np.uint8) for name in ("front", "top")}
    return Observation(seed, dict.fromkeys(images, seed), images, rng.uniform(-0.3, 0.3, 3), "touch the röd block")


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
    with pytest.raises(ValueError, match="train it with LeRobot"):
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


def test_weights_that_lerobot_lacks_are_not_left_random(tmp_path: Path, capsys: Any) -> None:
    from safetensors.numpy import load_file, save_file

    require("act")
    made = make(tmp_path / "theirs", "act")
    weights = load_file(made.folder / "model.safetensors")
    weights.pop("model.action_head.weight")
    save_file(weights, made.folder / "model.safetensors")
    message = refusal(capsys, made.folder, tmp_path / "policy")
    assert "can't load its 'act': " in message and "action_head.weight" in message


@needs_lerobot
def test_a_type_that_lerobot_does_not_know_is_refused(tmp_path: Path, capsys: Any) -> None:
    made = make(tmp_path / "theirs", "act")
    edit(made.folder / "config.json", lambda d: d.update(type="sarm"))
    message = refusal(capsys, made.folder, tmp_path / "policy")
    assert "can't load its 'sarm': it knows no such type; expected one of act, " in message


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def foreign(document: Any) -> None:
    del document["steps"][0]["registry_name"]
    document["steps"][0]["class"] = "os.system"


EDITS: list[tuple[str, Callable[[Any], object], str]] = [
    (BEFORE, foreign, "a step names the class 'os.system', which could run code; nothing was run"),
    (BEFORE, lambda d: d["steps"][-1].update(state_file="../a.safetensors"), "expected a file beside it, not a path"),
    (BEFORE, lambda d: d["steps"][-1].update(state_file="a.safetensors"), "a.safetensors is missing, which"),
    (BEFORE, lambda d: d["steps"][-1].update(state_file="config.json"), "expected a safetensors file"),
    (BEFORE, lambda d: d.update(steps=None), "steps is no list of objects"),
    (
        BEFORE,
        lambda d: d["steps"].append({"registry_name": "tokenizer_processor", "config": {"tokenizer_name": "a/b"}}),
        "reads text by the tokenizer 'a/b' and has none in tokenizer/; give the folder",
    ),
    ("config.json", lambda d: d.update(output_features={}), "expected 'action' among them"),
    (
        "config.json",
        lambda d: d["input_features"].update({"observation.environment_state": {"type": "ENV", "shape": [2]}}),
        "is of kind ENV, which no robot measures",
    ),
    ("config.json", lambda d: d["output_features"]["action"].update(shape=[7]), "action makes 6 numbers"),
]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kept ACT checkpoint, where LeRobot need not be installed to be refused."""
    monkeypatch.setattr("vla_ros.policies.lerobot.recording.require_lerobot", lambda: "0.6.1")
    folder = tmp_path / "theirs"
    folder.mkdir()
    for path in ACT.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


SIX = ["--robot", "so101", "--space", "so101_degrees", "--chunk-dt-s", "0.1"]


@pytest.mark.parametrize(("name", "change", "expected"), EDITS)
def test_a_checkpoint_that_is_not_whole_or_could_run_code_is_refused_in_one_line(
    copied: Path, tmp_path: Path, capsys: Any, name: str, change: Callable[[Any], object], expected: str
) -> None:
    edit(copied / name, change)
    cameras = ["--camera", "front=front", "--camera", "wrist=wrist"]
    assert expected in refusal(capsys, copied, tmp_path / "policy", *SIX, *cameras)


@pytest.mark.parametrize("name", [BEFORE, "policy_postprocessor.json"])
def test_a_checkpoint_without_its_processors_is_refused(copied: Path, tmp_path: Path, capsys: Any, name: str) -> None:
    (copied / name).unlink()
    assert f"{name} is missing; LeRobot runs no policy without it" in refusal(capsys, copied, tmp_path / "policy")


def test_weights_in_a_pickle_are_refused(copied: Path, tmp_path: Path, capsys: Any) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle, which could run code" in refusal(capsys, copied, tmp_path / "policy")


def test_a_space_of_another_size_is_refused(copied: Path, tmp_path: Path, capsys: Any) -> None:
    assert "makes 3 numbers" in refusal(capsys, copied, tmp_path / "policy")


def test_where_lerobot_is_not_installed_the_line_says_how_to_have_it(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    message = refusal(capsys, ACT, tmp_path / "policy")
    assert "LeRobot is not installed here; install the extra lerobot: Python 3.12" in message


def test_a_type_without_a_family_is_told_of_this_way(copied: Path, tmp_path: Path, capsys: Any) -> None:
    edit(copied / "config.json", lambda d: d.update(type="diffusion"))
    assert main(["import", str(copied), str(tmp_path / "policy"), "--robot", str(ROBOT)]) == 2
    assert "installed LeRobot with --runner lerobot (docs/lerobot.md), or serve it" in capsys.readouterr().err


def test_what_is_no_checkpoint_of_lerobot_is_not_run_by_it(tmp_path: Path, capsys: Any) -> None:
    assert "is no checkpoint of LeRobot" in refusal(capsys, tmp_path / "nothing", tmp_path / "policy")


def test_a_folder_is_told_from_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"lacks model.safetensors; restore"):
        check_files(tmp_path, {"config.json": "", "model.safetensors": ""})


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


def test_code_that_a_repository_brings_is_not_run(tmp_path: Path) -> None:
    from transformers import AutoConfig

    marker = tmp_path / "ran"
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "strange.Strange"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "strange.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with own_code_only(), pytest.raises(ValueError, match="it asks for the code Strange of a repository; nothing of"):
        AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert not marker.exists()
