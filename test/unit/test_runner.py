"""Execution: a request through a small random policy gives what the policy itself gives."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from policy_helpers import observation, pi_config, policy_processor

torch = pytest.importorskip("torch")

from vla_ros.execution.runner import MAX_BUCKETS, PolicyRunner  # noqa: E402
from vla_ros.execution.staging import Bucket, StagingArea  # noqa: E402
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402
from vla_ros.policies.pi.processor import PiProcessor  # noqa: E402
from vla_ros.policies.pi.request import PiRequest  # noqa: E402

NUM_STEPS = 5


@pytest.fixture(scope="module")
def policy() -> PiPolicy:
    torch.manual_seed(0)
    return PiPolicy(pi_config(num_steps=NUM_STEPS)).eval()


@pytest.fixture(scope="module")
def processor() -> PiProcessor:
    return policy_processor(pi_config())


def padded(request: PiRequest, num: int) -> PiRequest:
    """The same request with ``num`` more padding tokens on the left: another shape."""
    inputs = request.policy_input
    prefix = inputs.prefix_mask.shape[0]
    prefix_mask = np.eye(prefix + num, dtype=bool)
    prefix_mask[num:, num:] = inputs.prefix_mask
    longer = replace(
        inputs,
        input_ids=np.pad(inputs.input_ids, (num, 0)),
        attention_mask=np.pad(inputs.attention_mask, (num, 0)),
        prefix_mask=prefix_mask,
        position_ids=np.pad(inputs.position_ids, [(0, 0), (num, 0)]),
    )
    return replace(request, policy_input=longer)


class FailingCapture:
    """What a GPU without memory left for a graph does."""

    def capture_sync(self, compute):
        raise RuntimeError("not captured as a CUDA graph: out of memory")


class RecordingCapture:
    """Runs the computation once and replays what came out, as a graph would on unchanged input."""

    def capture_sync(self, compute):
        output = compute()
        return lambda: output


def make_runner(policy: PiPolicy) -> PolicyRunner:
    return PolicyRunner(policy, torch.device("cpu"))


def test_the_runner_gives_what_the_policy_gives(policy, processor):
    runner = make_runner(policy)
    for stamp_ns in range(3):
        request = processor.process(observation(stamp_ns=stamp_ns))
        with torch.inference_mode():
            noise = torch.from_numpy(request.noise)[None]
            expected = policy.sample_actions(policy.unpack_request(request).observation, NUM_STEPS, noise)[0]
        inference = runner.run(request)
        np.testing.assert_allclose(inference.actions, expected.numpy(), atol=1e-6)
        assert inference.actions.dtype == np.float32


def test_a_result_stays_as_it_was_when_the_buffers_are_used_again(policy, processor):
    runner = make_runner(policy)
    first = runner.run(processor.process(observation())).actions
    kept = first.copy()
    runner.run(processor.process(observation(stamp_ns=5)))
    assert runner.run(processor.process(observation(stamp_ns=5))).actions.tolist() != kept.tolist()
    np.testing.assert_array_equal(first, kept)


def test_every_stage_is_timed(policy, processor):
    inference = make_runner(policy).run(processor.process(observation()))
    assert list(inference.timings_ms) == ["copy_in", "prefix", "suffix", "copy_out"]
    assert inference.total_ms == pytest.approx(sum(inference.timings_ms.values()))


def test_noise_of_another_shape_is_refused(policy, processor):
    request = processor.process(observation())
    with pytest.raises(ValueError, match=r"noise of shape \(2, 3\); the policy expects \(4, 3\)"):
        make_runner(policy).run(replace(request, noise=request.noise[:2]))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("input_ids", 400, "a token outside 0..399"),  # on a GPU an index beyond the table would end the process
        ("input_ids", -1, "a token outside 0..399"),
        ("input_ids", 4, "33 image tokens; its images fill 32"),
        ("prefix_mask", None, "a prefix of 50 for 48 tokens; the policy has 3 registers"),
    ],
)
def test_a_request_of_another_policy_is_refused_before_it_runs(policy, processor, field, value, expected):
    request = processor.process(observation())
    array = getattr(request.policy_input, field).copy()
    if value is None:
        array = array[1:, 1:]
    else:
        array[-1] = value
    other = replace(request, policy_input=replace(request.policy_input, **{field: array}))
    with pytest.raises(ValueError, match=expected):
        make_runner(policy).run(other)


def test_the_number_of_shapes_kept_is_bounded(policy, processor):
    runner = make_runner(policy)
    request = processor.process(observation())
    expected = runner.run(request).actions
    for i in range(1, MAX_BUCKETS):
        np.testing.assert_allclose(runner.run(padded(request, i)).actions, expected, atol=1e-5)
    with pytest.raises(ValueError, match="shapes of request"):
        runner.run(padded(request, MAX_BUCKETS))


def test_a_staging_area_holds_exactly_what_was_loaded(processor):
    request = processor.process(observation())
    staging = StagingArea(Bucket.of(request), torch.device("cpu"))
    staging.load(processor.process(observation(stamp_ns=5)))
    staging.load(request)
    assert staging.tensors.keys() == request.to_tensors().keys()
    for name, array in request.to_tensors().items():
        np.testing.assert_array_equal(staging.tensors[name][0].numpy(), array)
        assert staging.tensors[name][0].numpy().dtype == array.dtype


def test_nothing_keeps_the_policy_once_its_runner_is_gone(processor):
    policy = PiPolicy(pi_config())
    runner = make_runner(policy)
    runner.run(processor.process(observation()))
    alive = weakref.ref(policy)
    gc.disable()  # device memory must be free at once, not when the collector comes by
    try:
        del policy, runner
        assert alive() is None
    finally:
        gc.enable()


def test_weights_that_only_prepare_can_go_once_there_is_a_runner(processor):
    torch.manual_seed(0)
    policy, request = PiPolicy(pi_config(num_steps=NUM_STEPS)).eval(), processor.process(observation())
    runner = make_runner(policy)
    expected = runner.run(request).actions
    runner.drop_prepared()
    assert policy.action_expert.blocks[0].ada_mod1.modulation.weight.is_meta
    np.testing.assert_array_equal(runner.run(request).actions, expected)
    np.testing.assert_allclose(runner.run(padded(request, 1)).actions, expected, atol=1e-5)


def test_there_is_a_warm_up_request_for_every_bucket(processor):
    requests = processor.warm_up_requests(observation())
    assert [len(request.policy_input.input_ids) for request in requests] == [48, 72]


def test_a_shape_that_cannot_be_captured_runs_all_the_same_and_is_told(policy, processor):
    request = processor.process(observation())
    expected = make_runner(policy).run(request)
    runner = make_runner(policy)
    runner._capture = FailingCapture()
    for _ in range(2):
        assert np.array_equal(runner.run(request).actions, expected.actions)
    assert runner.uncaptured == ["not captured as a CUDA graph: out of memory"]


def test_a_captured_shape_is_one_stage(policy, processor):
    request = processor.process(observation())
    runner = make_runner(policy)
    runner._capture = RecordingCapture()
    inference = runner.run(request)
    assert list(inference.timings_ms) == ["copy_in", "graph", "copy_out"] and not runner.uncaptured
