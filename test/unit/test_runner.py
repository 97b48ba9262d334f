"""Execution: a request through a small random policy gives what the policy itself gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vla_ros.execution.runner import MAX_BUCKETS, PolicyRunner  # noqa: E402
from vla_ros.execution.staging import Bucket, StagingArea  # noqa: E402
from vla_ros.policies.base import PolicyObservation  # noqa: E402
from vla_ros.policies.pi.config import ActionExpertConfig, PiConfig  # noqa: E402
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402
from vla_ros.transforms.sample import PolicyInput, PolicyRequest  # noqa: E402

HORIZON, ACTION_DIM, NUM_STEPS, SEQ = 4, 3, 5, 16
GRID = (1, 4, 4)
VISION_START, IMAGE = 60, 61
VLM = {
    "image_token_id": IMAGE,
    "video_token_id": 63,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": 62,
    "tie_word_embeddings": True,
    "text_config": {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
    },
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    },
}


@pytest.fixture(scope="module")
def policy() -> PiPolicy:
    torch.manual_seed(0)
    expert = ActionExpertConfig(32, 64, 2, 1, 16, 2)
    config = PiConfig(
        type="PiPolicy",
        vlm_type="Qwen3VLForConditionalGeneration",
        vlm_config=VLM,
        action_expert_cfg=expert,
        action_horizon=HORIZON,
        action_dim=ACTION_DIM,
        state_dim=ACTION_DIM,
        num_obs_registers=2,
    )
    return PiPolicy(config).eval()


def make_request(seed: int, seq: int = SEQ) -> PolicyRequest:
    rng = np.random.default_rng(seed)
    num_patches = GRID[1] * GRID[2]
    ids = rng.integers(1, 50, seq)
    ids[2], ids[3 : 3 + num_patches // 4] = VISION_START, IMAGE
    return PolicyRequest(
        stamp_ns=seed,
        policy_input=PolicyInput(
            pixel_values=rng.integers(0, 256, (num_patches, 3 * 4 * 4), dtype=np.uint8),
            input_ids=ids,
            attention_mask=np.arange(seq) >= 2,
            position_ids=np.broadcast_to(np.arange(seq), (3, 1, seq)).copy(),
            obs_register_att_mask=np.arange(seq) >= 2,
            target_ids=None,
            image_grid=(GRID,),
        ),
        state=rng.normal(size=(1, ACTION_DIM)).astype(np.float32),
        noise=rng.normal(size=(HORIZON, ACTION_DIM)).astype(np.float32),
    )


def make_runner(policy: PiPolicy) -> PolicyRunner:
    return PolicyRunner(policy, torch.device("cpu"), NUM_STEPS, (HORIZON, ACTION_DIM))


def test_the_runner_gives_what_the_policy_gives(policy):
    runner = make_runner(policy)
    for seed in range(3):
        request = make_request(seed)
        with torch.inference_mode():
            noise = torch.from_numpy(request.noise)[None]
            expected = policy.sample_actions(PolicyObservation.from_request(request), NUM_STEPS, noise)[0]
        inference = runner.run(request)
        np.testing.assert_allclose(inference.actions, expected.numpy(), atol=1e-6)
        assert inference.actions.dtype == np.float32


def test_a_result_stays_as_it_was_when_the_buffers_are_used_again(policy):
    runner = make_runner(policy)
    first = runner.run(make_request(0)).actions
    kept = first.copy()
    runner.run(make_request(1))
    np.testing.assert_array_equal(first, kept)


def test_every_stage_is_timed(policy):
    inference = make_runner(policy).run(make_request(0))
    assert list(inference.timings_ms) == ["stage", "prefix", "suffix", "fetch"]
    assert inference.total_ms == pytest.approx(sum(inference.timings_ms.values()))


def test_noise_of_another_shape_is_refused(policy):
    request = make_request(0)
    with pytest.raises(ValueError, match=r"noise of shape \(2, 3\); the loaded policy expects \(4, 3\)"):
        make_runner(policy).run(replace(request, noise=request.noise[:2]))


def test_the_number_of_shapes_kept_is_bounded(policy):
    runner = make_runner(policy)
    for i in range(MAX_BUCKETS):
        runner.run(make_request(0, seq=SEQ + i))
    with pytest.raises(ValueError, match="shapes of request"):
        runner.run(make_request(0, seq=SEQ + MAX_BUCKETS))


def test_a_staging_area_holds_exactly_what_was_loaded():
    request = make_request(0)
    staging = StagingArea(Bucket.of(request), torch.device("cpu"))
    staging.load(make_request(1))
    staging.load(request)
    inputs = vars(staging.observation.policy_input)
    for name, array in request.to_tensors().items():
        tensor = {"state": staging.observation.state, "noise": staging.noise}.get(name, inputs.get(name))
        np.testing.assert_array_equal(tensor[0].numpy(), array)
        assert tensor[0].numpy().dtype == array.dtype
