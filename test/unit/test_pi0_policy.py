"""pi0 and pi0.5 through everything that runs a policy: the wire, the runner, real-time chunking, the loss, an audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pi0_helpers import HORIZON, JOINTS, SIDE, VOCABULARY, tiny_config, tiny_policy, tiny_tokenizer  # noqa: E402
from policy_helpers import rngs  # noqa: E402

from vla_ros.audit.passes import host_pass  # noqa: E402
from vla_ros.execution.runner import PolicyRunner  # noqa: E402
from vla_ros.policies.config import DataConfig  # noqa: E402
from vla_ros.policies.directory import infer  # noqa: E402
from vla_ros.policies.families import find_config  # noqa: E402
from vla_ros.policies.fill import build_policy  # noqa: E402
from vla_ros.policies.modules.flow_loss import FlowDraws  # noqa: E402
from vla_ros.policies.pi0.config import Pi0Config  # noqa: E402
from vla_ros.policies.pi0.processor import Pi0Processor, Pi0Settings  # noqa: E402
from vla_ros.policies.pi0.request import Pi0Request  # noqa: E402
from vla_ros.policies.pi0.trials import Pi0Trials  # noqa: E402
from vla_ros.transforms.normalize import FieldStats  # noqa: E402
from vla_ros.transforms.sample import TextTarget, TrainingBatch  # noqa: E402
from vla_ros.types import Continuation, Observation  # noqa: E402
from vla_ros.wire import decode_request, encode_request  # noqa: E402

CPU = torch.device("cpu")
VARIANTS = ("pi0", "pi05")


def processor_of(config: Pi0Config, num_cameras: int = 2, max_tokens: int = 64) -> Pi0Processor:
    data = DataConfig(
        joint_names=JOINTS,
        camera_names=tuple(f"camera_{i}" for i in range(num_cameras)),
        action_horizon=HORIZON,
        chunk_dt_s=0.1,
        action_mode="absolute",
        normalization="lerobot_range",
    )
    shapes = {"state": (1, len(JOINTS)), "action": (HORIZON, len(JOINTS))}
    stats = {key: FieldStats(*(np.full(shape, x, np.float32) for x in (0, 1, -1, 1))) for key, shape in shapes.items()}
    settings = Pi0Settings("lerobot-0.6", max_tokens, len(JOINTS), 16)
    return Pi0Processor(config, data, settings, tiny_tokenizer(), stats)


def observation(processor: Pi0Processor, task: str = "move to the red block", seed: int = 0) -> Observation:
    rng, names = np.random.default_rng(seed), processor.camera_names
    images = {name: rng.integers(0, 256, (20, 30, 3), np.uint8) for name in names}
    return Observation(7, dict.fromkeys(names, 7), images, rng.uniform(-1, 1, len(JOINTS)), task)


@pytest.fixture(params=VARIANTS)
def config(request: pytest.FixtureRequest) -> Pi0Config:
    return tiny_config(request.param)


def test_a_request_comes_back_from_the_wire_and_runs_in_each_of_its_shapes(config: Pi0Config) -> None:
    processor, policy = processor_of(config), tiny_policy(config)
    seen, runner = observation(processor), PolicyRunner(policy, CPU)
    plain = processor.process(seen)
    message = decode_request(encode_request(plain))
    back = Pi0Request.from_tensors(message.tensors, message.metadata)
    for name, array in plain.to_tensors().items():
        np.testing.assert_array_equal(back.to_tensors()[name], array)
    requests = processor.warm_up_requests(seen, with_guidance=True)
    assert [len(request.tokens) for request in requests] == [16, 32, 48, 64] * 2
    for request in requests:
        assert runner.run(request).actions.shape == (HORIZON, len(JOINTS))
    view = plain.view()
    assert view.image_grid == ((1, 2, 2),) * 2 and len(view.tokens) == plain.token_mask.sum()


def test_padding_and_packing_change_nothing(config: Pi0Config) -> None:
    processor, policy = processor_of(config), tiny_policy(config)
    request = processor.process(observation(processor))
    short, wide = infer(policy, request, CPU), processor.every_shape(observation(processor))[-1]
    assert len(wide.tokens) > len(request.tokens)
    np.testing.assert_allclose(infer(policy, wide, CPU), short, atol=2e-6)
    packed = tiny_policy(config)
    packed.pack_weights()
    np.testing.assert_allclose(infer(packed, request, CPU), short, atol=2e-6)


def test_a_chunk_is_continued_as_gradients_say(config: Pi0Config) -> None:
    processor, policy = processor_of(config), tiny_policy(config)
    seen = observation(processor)
    plain = processor.process(seen)
    policy.check_guidance_sync(policy.unpack_request(plain), policy.prepare())
    old = np.full((HORIZON, len(JOINTS)), 0.5)
    old[-2:] = np.nan
    guided = processor.process(seen, Continuation(old, num_frozen=1))
    assert policy.guides_by_gradient and guided.previous_actions.shape == (HORIZON, len(JOINTS))
    gaps = [np.abs(PolicyRunner(policy, CPU).run(each).actions - 0.5)[:3].mean() for each in (plain, guided)]
    assert gaps[1] < 0.6 * gaps[0]


def test_a_policy_that_learned_with_given_actions_keeps_them_and_takes_no_gradient(config: Pi0Config) -> None:
    config = replace(config, max_frozen_actions=3)
    policy, processor = tiny_policy(config), processor_of(config)
    request = processor.process(observation(processor))
    given = np.linspace(-0.5, 0.5, HORIZON * len(JOINTS), dtype=np.float32).reshape(HORIZON, -1)
    weights = np.array([1, 1, 0, 0, 0, 0], np.float32)
    actions, others = (
        infer(policy, replace(request, previous_actions=sign * given, guidance_weights=weights), CPU)
        for sign in (1, -1)
    )
    assert not policy.guides_by_gradient
    np.testing.assert_allclose(actions[:2], given[:2], atol=1e-6)
    assert np.abs(actions[2:] - others[2:]).max() > 1e-4, "the others follow from them"


def test_the_loss_is_that_of_the_robots_own_numbers(config: Pi0Config) -> None:
    processor, policy = processor_of(config), build_policy(config)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 2, 20, 30, 3), np.uint8)
    states = rng.uniform(-1, 1, (3, 1, len(JOINTS))).astype(np.float32)
    actions = rng.normal(size=(3, HORIZON, len(JOINTS))).astype(np.float32)
    tasks = ["move", "move to the red block", "a b c"]
    inputs = processor.make_batch(images, tasks, states, [TextTarget()] * 3)
    sample = policy.unpack_batch(TrainingBatch(inputs, states, actions))
    draws = FlowDraws(torch.randn(3, 2, HORIZON, 32), torch.tensor([[0.2, 0.9]] * 3))
    loss = policy.compute_loss(sample, draws)
    squares = []
    with torch.no_grad():
        for i in range(3):  # one by one, unpadded by the others, for each draw
            own = processor.make_batch(images[i : i + 1], tasks[i : i + 1], states[i : i + 1], [TextTarget()])
            one = policy.unpack_batch(TrainingBatch(own, states[i : i + 1], actions[i : i + 1]))
            suffix = policy.prepare_suffix(policy.encode_prefix(one.observation), None)
            for k in range(2):
                noise, time = draws.noise[i, k], draws.time[i, k]
                noisy = time * noise + (1 - time) * one.actions[0]
                velocity = policy.predict_suffix(one.observation.state, suffix, noisy[None, None], time[None, None])
                squares.append((velocity[0, 0] - (noise - one.actions[0]))[:, : len(JOINTS)].square().mean())
    torch.testing.assert_close(loss.total.detach(), torch.stack(squares).mean(), rtol=1e-4, atol=1e-5)
    loss.total.backward()
    for name, value in policy.named_parameters():
        assert value.grad is not None and value.grad.any(), f"{name} is kept and not read"
    assert policy.sample_batch(sample, rngs(3)).shape == (3, HORIZON, len(JOINTS))


def test_a_task_that_is_too_long_loses_its_end_as_where_the_policy_was_trained(config: Pi0Config) -> None:
    processor = processor_of(config, max_tokens=20)
    request = processor.process(observation(processor, task="move " * 60))
    assert request.token_mask.all() and len(request.tokens) == 20


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: {"tokens": r.tokens + VOCABULARY}, "a token outside 0..39"),
        (lambda r: {"token_mask": r.token_mask[::-1].copy()}, "padding before its tokens"),
        (lambda r: {"token_mask": np.zeros_like(r.token_mask)}, "padding before its tokens, or nothing else"),
        (lambda r: {"state": r.state[:, :3]}, "state float32 of shape (1, 3); the policy expects float32 of (1, 32)"),
        (lambda r: {"noise": r.noise[:, :6]}, "noise float32 of shape (6, 6); the policy expects float32 of (6, 32)"),
        (lambda r: {"pixel_values": r.pixel_values[:, :2]}, "pixel_values float32 of shape (2, 2, 588)"),
        (lambda r: {"pixel_values": r.pixel_values[:0]}, "pixel_values float32 of shape (0, 4, 588)"),
        (lambda r: {"pixel_values": r.pixel_values.astype(np.float64)}, "pixel_values float64"),
    ],
)
def test_a_request_of_another_policy_is_refused_on_the_host(
    change: Callable[[Pi0Request], dict[str, np.ndarray]], expected: str
) -> None:
    config = tiny_config()
    processor = processor_of(config)
    request = processor.process(observation(processor))
    with pytest.raises(ValueError) as caught:
        tiny_policy(config).check_request(replace(request, **change(request)))
    assert expected in str(caught.value) and "give both nodes the same policy directory" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"variant": "pi1"}, "policy.variant is 'pi1'; expected one of pi0, pi05"),
        ({"time_rule": "guess"}, "policy.time_rule is 'guess'; expected one of product, sum"),
        ({"action_dim": 33}, "policy.action_dim is 33; expected at least 1 and at most 32"),
        ({"max_frozen_actions": HORIZON}, "max_frozen_actions is 6; expected at least 0 and at most 5"),
        ({"min_period": 5.0}, "expected 0 < min_period < max_period"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected.replace(".", r"\.")):
        tiny_config(**changes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_small_version_of_the_published_one_waits_for_nothing(variant: str) -> None:
    published, trials = find_config(variant), Pi0Trials()
    request = trials.make_request(published)
    assert request.pixel_values.shape == (2, 256, 588) and published.variant == variant
    tiny, small = trials.shrink(published, request)
    zeros = np.zeros((tiny.action_horizon, tiny.action_dim), np.float32)
    guided = replace(small, previous_actions=zeros, guidance_weights=np.ones(tiny.action_horizon, np.float32))
    for each in (small, guided):
        assert not host_pass(tiny, each, build_policy).events
    assert trials.make_preprocessing(published)().pixel_values.shape == request.pixel_values.shape
    assert trials.num_tokens(small) == 2 * 16 + len(small.tokens)


def test_a_picture_of_another_size_than_the_cameras_is_refused() -> None:
    processor = processor_of(tiny_config())
    processor.settings = replace(processor.settings, camera_sizes=((20, 30), (SIDE, SIDE)))
    with pytest.raises(ValueError, match=r"camera 'camera_1' gives uint8 \[20, 30, 3\]; expected uint8 \[28, 28, 3\]"):
        processor.process(observation(processor))
