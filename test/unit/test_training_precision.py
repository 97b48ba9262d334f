"""A step in bfloat16 changes what it computes in, and nothing that stays: weights, moments, averages, the policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from sharded_families import CPU, FAMILIES, make, sample_of  # noqa: E402
from training_helpers import run, small_config  # noqa: E402

from vla_ros.policies.directory import load_policy  # noqa: E402
from vla_ros.training.metrics import METRICS  # noqa: E402
from vla_ros.training.parallelize import parallelize  # noqa: E402
from vla_ros.training.processes import joined, whole  # noqa: E402
from vla_ros.training.trainer import Trainer  # noqa: E402


@pytest.fixture(scope="module")
def runs(bags: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By precision, the folder of a run and its policy."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("float32", "bfloat16")}
    run(small_config(folders["float32"], bags))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vla_ros.training.run.Trainer", Kept)
        run(small_config(folders["bfloat16"], bags, "precision=bfloat16"))
    return folders


class Kept(Trainer):
    """Of the run in bfloat16, to be looked at when it has ended."""

    last: Trainer

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        Kept.last = self


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "run" / METRICS).read_text().splitlines()]


def test_the_losses_of_a_run_in_bfloat16_are_near_those_in_float32(runs: dict[str, Path]) -> None:
    whole_, half = losses(runs["float32"]), losses(runs["bfloat16"])
    assert half == pytest.approx(whole_, rel=0.02)
    assert all(a != b for a, b in zip(whole_, half, strict=True))


def test_whatever_a_run_keeps_is_float32_and_its_policy_is_as_ever(runs: dict[str, Path]) -> None:
    moments = [value for kept in Kept.last._optimizer.state.values() for value in kept.values()]
    assert {value.dtype for value in (*Kept.last.policy.parameters(), *moments)} == {torch.float32}
    assert len(moments) > 100
    shapes = [
        {name: (value.dtype, value.shape) for name, value in load_file(folder / "policy/model.safetensors").items()}
        for folder in runs.values()
    ]
    assert shapes[0] == shapes[1]
    assert load_policy(runs["bfloat16"] / "policy", "cpu").drift == ""


def test_a_run_in_bfloat16_goes_on_in_float32_and_says_so(runs: dict[str, Path], bags: list[Path]) -> None:
    lines: list[str] = []
    run(small_config(runs["bfloat16"], bags, "optimizer.num_steps=5"), lines.append)
    assert "precision was bfloat16 and is float32 from step 4 on" in lines


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_loss_and_gradients_in_bfloat16_too(name: str) -> None:
    policy, request = make(name)
    expected = policy.compute_loss(*sample_of(policy, request, 0)).parts
    with joined() as processes:
        parallelize(policy, processes, CPU, dtype=torch.bfloat16)
        loss = policy.compute_loss(*sample_of(policy, request, 0))
        loss.total.backward()
        gradients: list[Any] = [whole(value.grad) for value in policy.parameters() if value.grad is not None]
    assert {term.sum.dtype for term in loss.terms.values()} == {torch.float32}, "sums are computed in float32"
    for key, value in loss.parts.items():
        torch.testing.assert_close(value, expected[key], rtol=0.05, atol=1e-3)
    assert {value.dtype for value in gradients} == {torch.float32}
    assert all(value.isfinite().all() for value in gradients)


def test_a_precision_that_there_is_not_is_refused_by_name(bags: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision is 'float16'; expected one of float32, bfloat16"):
        small_config(tmp_path, bags, "precision=float16")
