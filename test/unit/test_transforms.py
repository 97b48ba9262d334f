"""Normalisation, action semantics and requests: numpy in, numpy out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from policy_helpers import make_processor, observation, pi_config, policy_processor

from vla_ros.policies.pi.request import PiRequest
from vla_ros.transforms.normalize import FieldStats, Normalizer, compute_stats, load_stats, save_stats
from vla_ros.transforms.prefix import prefix_mask


def stats() -> FieldStats:
    return FieldStats(
        mean=np.array([[1.0, 2.0]], np.float32),
        std=np.array([[0.5, 2.0]], np.float32),
        q01=np.array([[0.0, -2.0]], np.float32),
        q99=np.array([[2.0, 6.0]], np.float32),
    )


def test_quantiles_become_minus_one_and_one() -> None:
    normalizer = Normalizer("quantile", stats())
    np.testing.assert_allclose(normalizer.normalize(np.array([[[0.0, 6.0]], [[1.0, 2.0]]])), [[[-1, 1]], [[0, 0]]])


def test_quantile_mode_clamps_at_one_and_a_half_both_ways() -> None:
    normalizer = Normalizer("quantile", stats())
    np.testing.assert_allclose(normalizer.normalize(np.array([[100.0, -100.0]])), [[1.5, -1.5]])
    np.testing.assert_allclose(normalizer.denormalize(np.array([[9.0, -1.5]])), [[2.5, -4.0]])


def test_mean_std_mode_does_not_clamp() -> None:
    normalizer = Normalizer("mean_std", stats())
    np.testing.assert_allclose(normalizer.normalize(np.array([[6.0, 0.0]])), [[10.0, -1.0]], rtol=1e-5)


@pytest.mark.parametrize("mode", ["quantile", "mean_std"])
def test_denormalizing_undoes_normalizing(mode: str) -> None:
    normalizer = Normalizer(mode, stats())
    values = np.array([[[0.3, 1.0]], [[1.7, -1.0]]])
    np.testing.assert_allclose(normalizer.denormalize(normalizer.normalize(values)), values, atol=1e-5)


def test_a_dimension_that_never_moves_keeps_finite_values_and_small_noise() -> None:
    values = np.zeros((100, 1, 1)) + 1e-6 * np.random.default_rng(0).normal(size=(100, 1, 1))
    normalized = Normalizer("quantile", compute_stats(values, min_range=1e-3)).normalize(values)
    assert np.abs(normalized).max() < 0.01


def test_statistics_survive_their_file(tmp_path: Path) -> None:
    save_stats(tmp_path / "s.json", {"action": stats()})
    loaded = load_stats(tmp_path / "s.json", {"action": (1, 2)})["action"]
    for name, array in vars(stats()).items():
        np.testing.assert_array_equal(getattr(loaded, name), array)


def test_statistics_of_another_size_are_refused_by_name(tmp_path: Path) -> None:
    save_stats(tmp_path / "s.json", {"action": stats()})
    with pytest.raises(ValueError, match=r"'action.mean' has shape \(1, 2\); expected finite values of \(4, 2\)"):
        load_stats(tmp_path / "s.json", {"action": (4, 2)})


@pytest.fixture(scope="module")
def request_() -> PiRequest:
    return policy_processor(pi_config()).process(observation())


def test_a_request_survives_tensors_and_metadata(request_: PiRequest) -> None:
    back = PiRequest.from_tensors(request_.to_tensors(), request_.metadata())
    assert back.stamp_ns == request_.stamp_ns and back.policy_input.image_grid == request_.policy_input.image_grid
    for name, array in request_.to_tensors().items():
        np.testing.assert_array_equal(back.to_tensors()[name], array)


def test_a_request_with_a_tensor_missing_or_of_another_kind_is_refused_by_name(request_: PiRequest) -> None:
    tensors, metadata = request_.to_tensors(), request_.metadata()
    with pytest.raises(ValueError, match="tensor 'noise' is missing"):
        PiRequest.from_tensors({n: x for n, x in tensors.items() if n != "noise"}, metadata)
    with pytest.raises(ValueError, match="tensor 'state' is float64"):
        PiRequest.from_tensors(tensors | {"state": tensors["state"].astype(np.float64)}, metadata)
    with pytest.raises(ValueError, match="tensor 'attention_mask' has shape"):
        PiRequest.from_tensors(tensors | {"attention_mask": tensors["attention_mask"][1:]}, metadata)
    with pytest.raises(ValueError, match="tensor 'prefix_mask' has shape"):
        PiRequest.from_tensors(tensors | {"prefix_mask": tensors["prefix_mask"][1:]}, metadata)
    with pytest.raises(ValueError, match="tensor 'position_ids' has shape"):
        PiRequest.from_tensors(tensors | {"position_ids": tensors["position_ids"][:, 1:]}, metadata)
    with pytest.raises(ValueError, match="7 patches; expected 32"):
        PiRequest.from_tensors(tensors | {"pixel_values": tensors["pixel_values"][:7]}, metadata)
    with pytest.raises(ValueError, match="stamp_ns"):
        PiRequest.from_tensors(tensors, {**metadata, "stamp_ns": "now"})


def test_one_sample_of_a_batch_is_what_a_single_observation_gives() -> None:
    processor = make_processor(pi_config())
    images = list(observation().images.values())
    single = processor.process(images, "touch the red block")
    resized = np.stack([processor.resize_image(processor.config, x) for x in images])
    batch = processor.make_batch(np.stack([resized, resized]), ("touch the red block",) * 2)
    for name in ("pixel_values", "input_ids", "attention_mask", "prefix_mask", "position_ids"):
        np.testing.assert_array_equal(getattr(batch.sample(1), name), getattr(single, name))


def test_tokens_never_see_registers_and_registers_see_what_their_mask_allows() -> None:
    valid = np.array([[False, True, True, True]])
    allowed = np.array([[False, True, True, False]])
    assert prefix_mask(valid, allowed, 2)[0].astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],  # padding: itself, so that its row is finite
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 1, 1],
        [0, 1, 1, 0, 1, 1],
    ]
