"""SmolVLA and ACT as policies: in a directory, through the runner, guided, trained."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lerobot_helpers import FOLDERS, KEPT, KINDS, take  # noqa: E402
from policy_helpers import rngs  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from vla_ros.execution.runner import PolicyRunner  # noqa: E402
from vla_ros.policies.act.config import CameraInput  # noqa: E402
from vla_ros.policies.act.policy import ActPolicy  # noqa: E402
from vla_ros.policies.config import DataConfig  # noqa: E402
from vla_ros.policies.directory import LoadedPolicy, infer, load_policy, save_policy  # noqa: E402
from vla_ros.policies.files import open_policy  # noqa: E402
from vla_ros.policies.fill import build_policy  # noqa: E402
from vla_ros.policies.importing.directory import write_policy  # noqa: E402
from vla_ros.policies.modules.flow_loss import FlowDraws  # noqa: E402
from vla_ros.policies.smolvla.policy import SmolVLAPolicy  # noqa: E402
from vla_ros.policies.smolvla.processor import fit_picture  # noqa: E402
from vla_ros.robot import load_robot  # noqa: E402
from vla_ros.share import robot_file  # noqa: E402
from vla_ros.training.config import LearningRates, OptimizerConfig, TrainConfig  # noqa: E402
from vla_ros.training.episodes import LearnFrom  # noqa: E402
from vla_ros.training.processes import joined  # noqa: E402
from vla_ros.training.run import train  # noqa: E402
from vla_ros.transforms.sample import TextTarget, TrainingBatch  # noqa: E402
from vla_ros.types import Continuation, Observation  # noqa: E402
from vla_ros.wire import decode_request, encode_request  # noqa: E402

CPU = torch.device("cpu")
BAG = KEPT.parent / "tabletop_touch"


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A policy directory of each kind, as an import writes it."""
    folders = {kind: tmp_path_factory.mktemp(kind) / "policy" for kind in KINDS}
    for kind, folder in folders.items():
        write_policy(folder, Path("model.safetensors"), take(kind))
    return folders


@pytest.fixture(params=KINDS)
def loaded(request: pytest.FixtureRequest, policies: Mapping[str, Path]) -> LoadedPolicy:
    return load_policy(policies[request.param], CPU)


def observe(loaded: LoadedPolicy, task: str = "pick up the cube", seed: int = 0) -> Observation:
    rng, sizes = np.random.default_rng(seed), loaded.processor.camera_sizes
    images = {name: rng.integers(0, 256, (*size, 3), np.uint8) for name, size in sizes.items()}
    return Observation(seed, dict.fromkeys(sizes, seed), images, rng.normal(size=6), task)


def batch_of(loaded: LoadedPolicy, num: int = 2) -> TrainingBatch:
    processor, config, rng = loaded.processor, loaded.policy.config, np.random.default_rng(0)
    size = processor.camera_size
    images = rng.integers(0, 256, (num, len(processor.camera_names), *size, 3), np.uint8)
    states = rng.standard_normal((num, 1, config.state_dim)).astype(np.float32)
    actions = rng.standard_normal((num, config.action_horizon, config.action_dim)).astype(np.float32)
    tasks = [f"put the {'very ' * i}red cube away" for i in range(num)]
    return TrainingBatch(processor.make_batch(images, tasks, states, [TextTarget()] * num), states, actions)


def test_a_directory_keeps_its_golden_case_and_both_sides_load_it(loaded: LoadedPolicy) -> None:
    assert not loaded.drift and loaded.digest
    for request in loaded.warm_up_requests:
        message = decode_request(encode_request(request))
        back = type(request).from_tensors(message.tensors, message.metadata)
        for name, array in request.to_tensors().items():
            np.testing.assert_array_equal(back.to_tensors()[name], array)
        loaded.policy.check_request(back)
        shown = request.view()
        assert len(shown.images) == len(loaded.processor.camera_names)


def test_packed_weights_give_the_same_actions_for_every_shape(loaded: LoadedPolicy) -> None:
    observations = [observe(loaded, "go " * num) for num in (1, 12, 30, 80)]
    requests = [loaded.processor.process(each) for each in observations]
    plain = [infer(loaded.policy, request, CPU) for request in requests]
    runner = PolicyRunner(loaded.policy, CPU)
    for request, expected in zip(requests, plain, strict=True):
        np.testing.assert_allclose(runner.run(request).actions, expected, atol=1e-5)


def test_a_directory_saved_again_is_the_same_policy(loaded: LoadedPolicy, tmp_path: Path) -> None:
    save_policy(tmp_path / "again", loaded.policy, loaded.processor, observe(loaded))
    again = load_policy(tmp_path / "again", CPU)
    request = loaded.processor.process(observe(loaded, seed=3))
    np.testing.assert_array_equal(infer(again.policy, request, CPU), infer(loaded.policy, request, CPU))


def test_a_request_that_another_policys_processor_made_is_refused(policies: Mapping[str, Path]) -> None:
    smolvla, act = (load_policy(policies[kind], CPU) for kind in ("smolvla", "act"))
    request = smolvla.processor.process(observe(smolvla))
    for change, expected in (
        ({"noise": request.noise[:, :6]}, "request has noise of shape"),
        ({"pictures": request.pictures[:, :64]}, "request has pictures of shape"),
        ({"tokens": request.tokens + 448}, "request has a token outside 0..447"),
    ):
        with pytest.raises(ValueError, match=expected):
            smolvla.policy.check_request(replace(request, **change))
    request = act.processor.process(observe(act))
    with pytest.raises(ValueError, match="request has images of .*give both nodes the same policy directory"):
        act.policy.check_request(replace(request, images=request.images[:1]))


def test_a_picture_of_another_size_is_refused_by_the_name_of_its_camera(loaded: LoadedPolicy) -> None:
    seen = observe(loaded)
    images = {**seen.images, "top": np.zeros((90, 120, 3), np.uint8)}
    with pytest.raises(ValueError, match=r"camera 'top'.* uint8 \[90, 120, 3\]; expected uint8"):
        loaded.processor.process(replace(seen, images=images))


def test_smolvla_sees_black_where_a_slot_without_a_camera_is_to_be_zeros(policies: Mapping[str, Path]) -> None:
    processor = load_policy(policies["smolvla"], CPU).processor
    first, second = processor.data.cameras
    assert (first.camera, second.camera, second.missing) == ("top", None, "mask")
    data = replace(processor.data, cameras=(replace(second, missing="zeros"), first))
    seen = type(processor)(processor.config, data, processor.settings, processor.tokenizer, processor.stats)
    black, top = seen.process(observe(LoadedPolicy(None, CPU, processor, ()))).pictures
    assert (black == -1.0).all() and (top != -1.0).any()


def test_act_says_why_it_cannot_continue_a_chunk(policies: Mapping[str, Path]) -> None:
    act = load_policy(policies["act"], CPU)
    chunk = Continuation(np.zeros((act.policy.config.action_horizon, 6)), 1)
    with pytest.raises(ValueError, match="it makes no chunk of noise that could be drawn towards the one before"):
        act.processor.process(observe(act), chunk)


def test_smolvla_is_drawn_towards_the_chunk_before_by_a_true_gradient(policies: Mapping[str, Path]) -> None:
    smolvla = load_policy(policies["smolvla"], CPU, with_guidance=True)
    policy, runner = smolvla.policy, PolicyRunner(smolvla.policy, CPU)
    guided = next(request for request in smolvla.warm_up_requests if request.is_guided)
    plain = replace(guided, previous_actions=None, guidance_weights=None)
    towards = runner.run(plain).actions + np.float32(0.1)
    weights = np.linspace(1.0, 0.0, len(towards), dtype=np.float32)
    near = runner.run(replace(guided, previous_actions=towards, guidance_weights=weights)).actions
    first = slice(len(towards) // 2)
    assert np.abs(near - towards)[first].mean() < 0.5 * np.abs(runner.run(plain).actions - towards)[first].mean()
    inputs = policy.unpack_request(guided)
    with torch.no_grad():
        policy.check_guidance_sync(inputs, policy.prepare())


def test_padding_of_an_instruction_changes_no_action(policies: Mapping[str, Path]) -> None:
    smolvla = load_policy(policies["smolvla"], CPU)
    request = smolvla.processor.process(observe(smolvla))
    longer = [np.pad(array, (0, 16)) for array in (request.tokens, request.token_mask)]
    padded = replace(request, tokens=longer[0] + ~longer[1] * 7, token_mask=longer[1])
    plain, more = (infer(smolvla.policy, each, CPU) for each in (request, padded))
    np.testing.assert_allclose(more, plain, atol=1e-5)


@pytest.mark.parametrize("num_draws", [1, 3])
def test_smolvlas_loss_is_that_of_each_draw(num_draws: int, policies: Mapping[str, Path]) -> None:
    smolvla = load_policy(policies["smolvla"], CPU)
    policy, generator = smolvla.policy, torch.Generator().manual_seed(0)
    assert isinstance(policy, SmolVLAPolicy)
    sample = policy.unpack_batch(batch_of(smolvla))
    shape = (2, num_draws, policy.config.action_horizon, policy.config.max_action_dim)
    draws = FlowDraws(torch.randn(shape, generator=generator), torch.rand(shape[:2], generator=generator))
    with torch.no_grad():
        total = policy.compute_loss(sample, draws).total
        alone = [
            policy.compute_loss(sample, FlowDraws(draws.noise[:, i : i + 1], draws.time[:, i : i + 1])).total
            for i in range(num_draws)
        ]
    torch.testing.assert_close(total, torch.stack(alone).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_its_loss_falls_with_steps_down_the_gradient(kind: str, policies: Mapping[str, Path]) -> None:
    torch.manual_seed(0)
    loaded = load_policy(policies[kind], CPU)
    policy = build_policy(loaded.policy.config)
    policy.load_state_dict(loaded.policy.state_dict())
    sample, losses = policy.unpack_batch(batch_of(loaded)), []
    learned = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert 0 < len(learned) < len(list(policy.parameters()))  # neither batch norms nor SmolVLA's backbone
    optimizer = torch.optim.Adam(learned, 1e-3)
    for _ in range(8):
        torch.manual_seed(1)  # dropout's
        loss = policy.compute_loss(sample, policy.draw(rngs(2))).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    actions = policy.eval().sample_batch(sample, rngs(2))
    assert actions.shape == (2, policy.config.action_horizon, policy.config.action_dim)


def test_without_its_variational_part_act_learns_actions_alone(policies: Mapping[str, Path]) -> None:
    loaded = load_policy(policies["act"], CPU)
    policy = build_policy(replace(loaded.policy.config, use_vae=False))
    assert isinstance(policy, ActPolicy) and not any(name.startswith("vae") for name, _ in policy.named_parameters())
    assert policy.compute_loss(policy.unpack_batch(batch_of(loaded)), policy.draw(rngs(2))).parts.keys() == {"l1"}


@pytest.mark.parametrize("changes", [{"pre_norm": True}, {"num_decoder_layers": 3}, {"feedforward_activation": "gelu"}])
def test_every_kind_of_act_runs_packed_as_it_does_not(changes: dict, policies: Mapping[str, Path]) -> None:
    torch.manual_seed(0)
    loaded = load_policy(policies["act"], CPU)
    policy = build_policy(replace(loaded.policy.config, **changes)).eval()
    request = loaded.processor.process(observe(loaded))
    plain = infer(policy, request, CPU)
    np.testing.assert_allclose(PolicyRunner(policy, CPU).run(request).actions, plain, atol=1e-5)


@pytest.mark.parametrize(("backbone", "dilate_last"), [("resnet34", False), ("resnet50", False), ("resnet50", True)])
def test_a_deeper_backbone_has_the_shape_of_its_kind(backbone: str, dilate_last: bool, policies) -> None:
    loaded = load_policy(policies["act"], CPU)
    policy = build_policy(replace(loaded.policy.config, backbone=backbone, dilate_last=dilate_last)).eval()
    assert isinstance(policy, ActPolicy)
    features = policy.backbone(torch.zeros(1, 3, 96, 128))
    assert features.shape == (1, 64 * (4 if backbone == "resnet50" else 1), *((6, 8) if dilate_last else (3, 4)))


def test_a_camera_of_the_policys_size_is_only_scaled() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_allclose(fit_picture(image, 64), image / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "inside"), [(30, 40, np.s_[16:, :]), (40, 20, np.s_[:, 32:])])
def test_what_a_picture_leaves_over_is_black_above_it_or_at_its_left(height: int, width: int, inside) -> None:
    white = fit_picture(np.full((height, width, 3), 255, np.uint8), 64)
    assert (white[inside] == 1.0).all()
    white[inside] = -1.0
    assert (white == -1.0).all()


def test_the_golden_case_is_of_the_checkpoints_own_cameras(policies: Mapping[str, Path]) -> None:
    golden = open_policy(policies["smolvla"]).golden
    assert {name: image.shape for name, image in golden.observation.images.items()} == {"top": (480, 640, 3)}


def test_a_backbone_in_sixteen_bits_stays_so_in_the_directory(tmp_path: Path) -> None:
    shutil.copytree(KEPT / FOLDERS["smolvla"] / "checkpoint", tmp_path / "mixed")
    weights = load_file(tmp_path / "mixed/model.safetensors")
    mixed = {name: value.bfloat16() if "vlm_with_expert.vlm" in name else value for name, value in weights.items()}
    save_file(mixed, tmp_path / "mixed/model.safetensors")
    write_policy(tmp_path / "policy", tmp_path / "mixed/model.safetensors", take("smolvla", tmp_path / "mixed"))
    stored = load_file(tmp_path / "policy/model.safetensors")
    assert {value.dtype for name, value in stored.items() if name.startswith("vlm.")} == {torch.bfloat16}
    assert stored["expert.norm.weight"].dtype == torch.float32
    for dtype in (torch.float32, torch.bfloat16):
        assert not load_policy(tmp_path / "policy", CPU, dtype).drift


def test_two_steps_of_training_on_a_bag_make_a_policy_directory(policies: Mapping[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(BAG, tmp_path / "bags" / name)
    robot = load_robot(robot_file("tabletop"))
    cameras = tuple(CameraInput((camera.height, camera.width)) for camera in robot.cameras)
    config = replace(load_policy(policies["act"], CPU).policy.config, cameras=cameras)
    data = DataConfig(robot.joint_names, robot.camera_names, config.action_horizon, chunk_dt_s=0.1)
    optimizer, lr = OptimizerConfig(2, batch_size=4, warmup_steps=1), LearningRates(1e-3)
    run_dir, output_dir = (str(tmp_path / name) for name in ("run", "policy"))
    places = ((str(tmp_path / "bags"),), run_dir, output_dir)
    whoever = LearnFrom(1, 1, 1)  # the bag's driver is a policy
    train_config = TrainConfig(
        "tabletop", *places, config, data, optimizer, lr, learn_from=whoever, num_workers=1, device="cpu"
    )
    with joined() as processes:
        report = train(train_config, robot_file("tabletop"), processes, lambda line: None)
    assert report.num_steps == 2 and np.isfinite(report.validation.error_rad).all()
    assert not load_policy(tmp_path / "policy", CPU).drift
