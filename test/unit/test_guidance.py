"""Real-time chunking: guided samples agree with numerical derivatives, and what is not guided is as it was."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from policy_helpers import EXPERT, HORIZON, JOINTS, observation, pi_config, policy_processor, training_batch

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch_helpers import MODES_WITH_PRODUCTS, NothingWaits  # noqa: E402

from vla_ros.audit.watch import watched  # noqa: E402
from vla_ros.execution.runner import PolicyRunner  # noqa: E402
from vla_ros.execution.staging import Bucket  # noqa: E402
from vla_ros.policies.directory import infer  # noqa: E402
from vla_ros.policies.modules.flow_matching import FlowInputs  # noqa: E402
from vla_ros.policies.modules.guidance import Guidance, check_product_sync, guidance_strength  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.data_types import PolicyObservation  # noqa: E402
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402
from vla_ros.policies.pi.processor import PiProcessor  # noqa: E402
from vla_ros.policies.pi.request import PiRequest  # noqa: E402
from vla_ros.transforms.chunking import guidance_weights  # noqa: E402
from vla_ros.wire import decode_request, encode_request  # noqa: E402

NUM_STEPS = 5
WEIGHTS = (1.0, 0.6, 0.2, 0.0)
WHOLE_PREFIX = {"expert_only_use_register": False, "causal_mask_obs_register": False}
EXPERTS = {
    "plain": {},
    "no biases": {"action_expert_cfg": replace(EXPERT, attention_bias=False, qk_norm="rmsnorm")},
    "no state": {"use_state": False, **WHOLE_PREFIX},
}


def make_policy(**changes: Any) -> PiPolicy:
    torch.manual_seed(0)
    policy = PiPolicy(pi_config(**changes)).eval()
    with torch.no_grad():  # modulations start at zero, and outputs too small to bend much
        for parameter in policy.action_expert.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        policy.action_out_proj.weight.mul_(3)
    return policy


def make_observation(policy: PiPolicy) -> PolicyObservation:
    return policy.unpack_batch(training_batch(policy.config, with_answers=False)).observation


def make_noise(seed: int = 1) -> Tensor:
    return torch.randn(2, HORIZON, len(JOINTS), generator=torch.Generator().manual_seed(seed))


def make_guidance(weights: tuple[float, ...] = WEIGHTS, **changes: Any) -> Guidance:
    return Guidance(make_noise(seed=2), torch.tensor(weights).expand(2, -1).contiguous(), **changes)


@torch.no_grad()
def numerical_sample(policy: PiPolicy, given: PolicyObservation, noise: Tensor, guidance: Guidance) -> Tensor:
    """As the paper has it, with the Jacobian of the estimate by central differences; all in double precision."""
    prepared = policy.prepare_suffix(policy.encode_prefix(given), None)
    target, weights = guidance.previous_actions.double(), guidance.weights.double()[..., None]
    x, step = noise.double(), 1e-5
    for i in range(NUM_STEPS):
        t = 1 - i / NUM_STEPS

        time = torch.full((2, 1), t)

        def velocity(x: Tensor, time: Tensor = time) -> Tensor:
            return policy.predict_suffix(given.state, prepared, x[:, None], time)[:, 0]

        def estimate(x: Tensor, t: float = t, velocity: Any = velocity) -> Tensor:
            return x - t * velocity(x)

        pull = weights * (target - estimate(x))
        product = torch.zeros_like(x)
        for row, column in itertools.product(range(HORIZON), range(len(JOINTS))):
            unit = torch.zeros_like(x)
            unit[:, row, column] = step
            derivative = (estimate(x + unit) - estimate(x - unit)) / (2 * step)
            product[:, row, column] = (derivative * pull).sum((1, 2))
        tau = 1 - t
        strength = guidance.beta if i == 0 else min(guidance.beta, (tau**2 + t**2) / (tau * t))
        x = x - (velocity(x) - strength * product) / NUM_STEPS
    return x


@pytest.mark.parametrize("beta", [5.0, 2.0])
@pytest.mark.parametrize("changes", EXPERTS.values(), ids=EXPERTS)
def test_guided_samples_are_those_of_a_numerical_jacobian(changes: dict[str, Any], beta: float) -> None:
    policy, noise, guidance = make_policy(**changes).double(), make_noise(), make_guidance(beta=beta)
    given = make_observation(policy)
    expected = numerical_sample(policy, given, noise, guidance)
    with torch.no_grad():
        plain = policy.sample_actions(given, NUM_STEPS, noise.double())
        double = policy.sample_actions(given, NUM_STEPS, noise.double(), guidance=guidance)
        single = policy.float().sample_actions(given, NUM_STEPS, noise, guidance=guidance)
    assert (plain - expected).abs().max() > 0.1
    torch.testing.assert_close(double, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(single.double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("mode", MODES_WITH_PRODUCTS)
@pytest.mark.parametrize("changes", EXPERTS.values(), ids=EXPERTS)
def test_packed_and_unpacked_weights_agree_in_every_mode_without_gradients(changes: dict[str, Any], mode: Any) -> None:
    policy, noise, guidance = make_policy(**changes), make_noise(), make_guidance()
    given = make_observation(policy)
    with torch.no_grad():
        expected = policy.sample_actions(given, NUM_STEPS, noise, guidance=guidance)
    policy.pack_weights()
    with mode():
        got = policy.sample_actions(given, NUM_STEPS, noise, guidance=guidance)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_weights_of_zero_give_the_plain_actions_and_weights_of_one_come_near_the_old_chunk() -> None:
    policy, noise = make_policy(), make_noise()
    given, old = make_observation(policy), make_guidance().previous_actions
    with torch.inference_mode():
        plain = policy.sample_actions(given, 10, noise)
        both = (make_guidance((weight,) * HORIZON) for weight in (0.0, 1.0))
        free, held = (policy.sample_actions(given, 10, noise, guidance=guidance) for guidance in both)
    torch.testing.assert_close(free, plain, rtol=1e-4, atol=1e-5)
    assert (held - old).abs().mean() < 0.5 * (plain - old).abs().mean()


def test_the_strength_is_that_of_the_paper() -> None:
    taus = (0.0, 0.1, 0.5, 0.8)
    got = [guidance_strength(1 - tau, 5.0) for tau in taus]
    assert got == pytest.approx([5.0, 5.0, 2.0, (0.64 + 0.04) / 0.16])


def test_weights_fall_from_the_frozen_actions_to_those_nobody_has_planned() -> None:
    got = guidance_weights(horizon=10, num_executed=4, num_frozen=2)
    np.testing.assert_allclose(got, [1, 1, 0.571, 0.287, 0.114, 0.026, 0, 0, 0, 0], atol=5e-4)
    assert got.dtype == np.float32
    assert guidance_weights(8, 3, 0)[0] < 1  # nothing is frozen
    assert guidance_weights(8, 4, 4).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("counts", [(8, 2, 3), (8, 6, 3), (8, 0, 0), (8, 9, 0), (8, 3, -1)])
def test_counts_that_leave_no_room_have_no_weights(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"{counts[1]} actions executed .* {counts[2]} of them frozen"):
        guidance_weights(*counts)


@pytest.fixture(scope="module")
def processor() -> PiProcessor:
    return policy_processor(pi_config())


def guided(request: PiRequest, weights: tuple[float, ...] = WEIGHTS) -> PiRequest:
    old = make_noise(seed=2)[0].numpy()
    return replace(request, previous_actions=old, guidance_weights=np.array(weights, np.float32))


def test_a_guided_request_comes_back_from_the_wire_as_it_was_sent(processor) -> None:
    request = guided(processor.process(observation()))
    message = decode_request(encode_request(request))
    back = PiRequest.from_tensors(message.tensors, message.metadata)
    np.testing.assert_array_equal(back.previous_actions, request.previous_actions)
    np.testing.assert_array_equal(back.guidance_weights, request.guidance_weights)
    plain = PiRequest.from_tensors(processor.process(observation()).to_tensors(), request.metadata())
    assert plain.previous_actions is None and plain.guidance_weights is None
    with pytest.raises(ValueError, match="'guidance_weights' is float32 with 2 dimensions; expected float32 with 1"):
        PiRequest.from_tensors({**message.tensors, "guidance_weights": request.noise}, message.metadata)


def test_the_runner_gives_what_the_policy_gives_guided_or_not(processor) -> None:
    policy = make_policy()
    request = processor.process(observation())
    plain = infer(policy, request, torch.device("cpu"))
    expected = infer(policy, guided(request), torch.device("cpu"))
    assert np.abs(expected - plain).max() > 0.1
    runner = PolicyRunner(policy, torch.device("cpu"))
    for _ in range(2):  # each has buffers of its own
        np.testing.assert_allclose(runner.run(request).actions, plain, atol=1e-5)
        np.testing.assert_allclose(runner.run(guided(request)).actions, expected, atol=1e-4)
    assert Bucket.of(request) != Bucket.of(guided(request))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"guidance_weights": None}, "previous_actions alone; expected previous_actions and guidance_weights"),
        ({"previous_actions": None}, "guidance_weights alone"),
        ({"previous_actions": np.zeros((4, 2), np.float32)}, r"previous_actions of shape \(4, 2\); .* \(4, 3\)"),
        ({"guidance_weights": np.zeros(3, np.float32)}, r"guidance_weights of shape \(3,\); the policy expects \(4,\)"),
        ({"previous_actions": np.full((4, 3), np.nan, np.float32)}, "previous_actions that are not finite"),
        ({"guidance_weights": np.full(4, np.inf, np.float32)}, "guidance_weights that are not finite"),
        ({"guidance_weights": np.full(4, 1.5, np.float32)}, r"guidance_weights in 1.5..1.5; expected 0..1"),
        ({"guidance_weights": np.full(4, -0.5, np.float32)}, r"guidance_weights in -0.5..-0.5"),
    ],
)
def test_bad_guidance_is_refused_in_one_line(processor, changes: dict[str, Any], expected: str) -> None:
    request = replace(guided(processor.process(observation())), **changes)
    with pytest.raises(ValueError, match=expected) as refusal:
        PolicyRunner(make_policy(), torch.device("cpu")).run(request)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_an_older_chunk_is_expressed_for_the_new_state(mode: str) -> None:
    processor = policy_processor(pi_config(), action_mode=mode)
    seen = observation()
    targets = processor.decode(make_noise()[0].numpy().clip(-1, 1), seen).positions
    moved = replace(seen, joint_positions=seen.joint_positions + 0.05)
    known = np.array([1, 0.5, 0.2, 0])
    request = processor.guide(processor.process(moved), moved, np.where(known[:, None] > 0, targets, np.nan), known)
    assert request.previous_actions.dtype == request.guidance_weights.dtype == np.float32
    assert np.isfinite(request.previous_actions).all()
    np.testing.assert_allclose(processor.decode(request.previous_actions, moved).positions[:3], targets[:3], atol=1e-5)


def test_warm_up_requests_are_guided_too_where_asked_for(processor) -> None:
    requests = processor.warm_up_requests(observation(), with_guidance=True)
    assert [len(request.policy_input.input_ids) for request in requests] == [48, 72, 48, 72]
    assert [request.previous_actions is not None for request in requests] == [False, False, True, True]
    assert len({Bucket.of(request) for request in requests}) == 4
    runner = PolicyRunner(make_policy(), torch.device("cpu"))
    assert all(np.isfinite(runner.run(request).actions).all() for request in requests)


@pytest.mark.parametrize("factor", [0.0, -1.0, 2.0])
def test_wrong_gradients_are_found_before_the_first_guided_request_runs(processor, monkeypatch, factor) -> None:
    policy, vjp = make_policy(), torch.func.vjp

    def broken(function: Any, x: Tensor) -> Any:
        value, product = vjp(function, x)
        return value, lambda cotangent: (factor * product(cotangent)[0],)

    monkeypatch.setattr(torch.func, "vjp", broken)
    runner = PolicyRunner(policy, torch.device("cpu"))
    request = processor.process(observation())
    runner.run(request)
    for _ in range(2):  # and every time
        with pytest.raises(ValueError, match=rf"gradients through the policy are {factor:.1g}.* real-time chunking"):
            runner.run(guided(request))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_right_gradients_pass_the_check_in_every_precision(dtype: torch.dtype, scale: float) -> None:
    mix = torch.randn(12, 12, generator=torch.Generator().manual_seed(0)).to(dtype)

    def velocity(x: Tensor) -> Tensor:
        return scale * torch.tanh(x.flatten(1).to(dtype) @ mix).view(x.shape)

    with torch.no_grad():
        check_product_sync(velocity, make_noise()[:1, None])


def test_nothing_waits_for_the_device_in_a_guided_sample() -> None:
    for changes in (*EXPERTS.values(), {"max_frozen_actions": 2}):
        policy, noise, guidance = make_policy(**changes), make_noise(), make_guidance()
        policy.pack_weights()
        given = make_observation(policy)
        with torch.no_grad():
            grid = policy.make_time_grid(3)
            policy.sample(FlowInputs(given, noise, guidance), grid)  # makes the constants of these shapes
            with NothingWaits():
                policy.sample(FlowInputs(given, noise, guidance), grid)
            with watched(host_stands_in=True) as events:
                policy.sample(FlowInputs(given, noise, guidance), grid)
        assert events == []
