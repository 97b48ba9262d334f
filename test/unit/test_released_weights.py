"""A released model.pt fills a policy exactly, or is refused in one line before any of it is used."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from released_helpers import HEAD, edit_cfg, released_weights, tied_config, write_run  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from vla_ros.policies.fill import build_policy  # noqa: E402
from vla_ros.policies.importing.checkpoint import open_checkpoint  # noqa: E402
from vla_ros.policies.importing.mapped import KEPT_BYTES, MappedFile  # noqa: E402
from vla_ros.policies.importing.precision import float32_arithmetic  # noqa: E402
from vla_ros.policies.importing.writer import write_safetensors  # noqa: E402
from vla_ros.policies.pi.released.weights import RENAMED, ReleasedPolicy, load_released  # noqa: E402

CASES = Path(__file__).resolve().parents[1] / "data" / "pi_parity"
EMBEDDING = "vlm_bridge.causal_model.model.language_model.embed_tokens.weight"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def load(run: Path, dtype: torch.dtype | None = torch.float32) -> ReleasedPolicy:
    return load_released(run, run.parent / "vlm" / "config.json", dtype)


def rewrite(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    weights = released_weights(tied_config())
    change(weights)
    torch.save(weights, run / "checkpoint_10" / "model.pt")


def refusal(run: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load(run)
    assert "\n" not in str(caught.value) and "model.pt" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, None])
def test_every_weight_is_the_checkpoints(run: Path, dtype: torch.dtype | None) -> None:
    loaded = load(run, dtype)
    expected = released_weights(tied_config())
    got = dict(loaded.policy.named_parameters(remove_duplicate=False))
    assert got.keys() == expected.keys() and not loaded.policy.training
    for name, value in got.items():
        assert value.dtype == (dtype or torch.bfloat16) and not value.requires_grad
        assert torch.equal(value.to(torch.bfloat16), expected[name]), name


def test_the_constants_that_no_checkpoint_holds_are_those_of_a_built_policy(run: Path) -> None:
    expected = dict(build_policy(tied_config()).named_buffers())
    got = dict(load(run).policy.named_buffers())
    assert expected and got.keys() == expected.keys()
    for name, value in got.items():
        assert value.dtype == expected[name].dtype and torch.equal(value, expected[name]), name


def test_equal_embeddings_stay_one_weight_and_a_missing_head_is_the_embedding(run: Path) -> None:
    assert "tied" == load(run).head.split()[0]
    rewrite(run, lambda weights: weights.pop(HEAD))
    policy = load(run).policy
    assert policy.get_parameter(HEAD) is policy.get_parameter(EMBEDDING)


def test_a_head_that_differs_is_kept_whatever_the_configuration_says(run: Path) -> None:
    rewrite(run, lambda weights: weights.update({HEAD: weights[HEAD] + 1}))
    loaded = load(run)
    assert "untied" in loaded.head and "though config.json ties it" in loaded.head
    assert loaded.config.vlm_config["tie_word_embeddings"] is False
    difference = loaded.policy.get_parameter(HEAD) - loaded.policy.get_parameter(EMBEDDING)
    assert difference.abs().min() > 0.5


def test_a_head_that_the_configuration_keeps_apart_must_be_there(tmp_path: Path) -> None:
    config = tied_config(tied=False)
    weights = released_weights(config)
    del weights[HEAD]
    assert f"missing weights ({HEAD})" in refusal(write_run(tmp_path, config, weights))


def test_a_checkpoint_of_another_architecture_is_refused_with_what_differs(run: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        for name in [name for name in weights if ".mlp." in name]:
            weights[name.replace(".mlp.", ".feed_forward.")] = weights.pop(name)

    rewrite(run, change)
    message = refusal(run)
    assert "missing weights (" in message and "unexpected weights (" in message and "more)" in message
    assert ".feed_forward." in message and "another architecture" in message
    edit_cfg(run, lambda cfg: cfg["policy"]["action_expert_cfg"].update(hidden_size=24))
    rewrite(run, lambda weights: None)
    assert "weights of another shape (" in refusal(run) and "expected [" in refusal(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused_by_the_weights_name(run: Path, value: float) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        weights["action_out_proj.weight"][1, 3] = value

    rewrite(run, change)
    assert "weight action_out_proj.weight has values that are not finite" in refusal(run)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(run: Path, share: float) -> None:
    path = run / "checkpoint_10" / "model.pt"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "cut off, or not written by torch.save" in refusal(run)


def test_a_checkpoint_with_a_part_missing_in_the_middle_is_refused(run: Path) -> None:
    path = run / "checkpoint_10" / "model.pt"
    content = path.read_bytes()
    path.write_bytes(content[:100] + content[20_000:])
    assert "damaged (" in refusal(run)


class Malice:
    """Unpickling it would make a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_would_run_code_runs_nothing(run: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    rewrite(run, lambda weights: weights.update(extra=Malice(marker)))
    assert "asks for posix.mkdir, which could run code; nothing was run" in refusal(run)
    (run / "checkpoint_10" / "model.pt").write_bytes(pickle.dumps(Malice(marker)))
    refusal(run)
    assert not marker.exists()
    torch.save({"extra": Malice(marker)}, tmp_path / "trusted.pt")
    torch.load(tmp_path / "trusted.pt", weights_only=False)  # it does run where a pickle is trusted
    assert marker.is_dir()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.zeros(2)], "holds list; expected a state dict"),
        ({}, "holds dict; expected a state dict"),
        ({"model": {"a": torch.zeros(2)}}, "'model' is dict; expected a flat state dict"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "weight a is torch.int64"),
        ({"a": torch.eye(2).to_sparse()}, "weight a is torch.float32 (torch.sparse_coo)"),
        ({"a": torch.zeros(2, device="meta")}, "on meta; expected dense floats"),
    ],
)
def test_what_is_no_flat_state_dict_of_floats_is_refused(run: Path, content: Any, expected: str) -> None:
    torch.save(content, run / "checkpoint_10" / "model.pt")
    assert expected in refusal(run)


def test_a_class_outside_the_registry_is_refused_before_the_checkpoint_is_opened(run: Path) -> None:
    (run / "checkpoint_10" / "model.pt").write_bytes(b"")
    edit_cfg(run, lambda cfg: cfg["policy"].update(_target_="os.system"))
    with pytest.raises(ValueError, match="'os.system', a class outside the registry; nothing was loaded"):
        load(run)


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code"])
def test_a_vlm_configuration_that_asks_for_code_is_refused(run: Path, key: str) -> None:
    path = run.parent / "vlm" / "config.json"
    path.write_text(path.read_text().replace("{", f'{{"{key}": "modeling.py", ', 1))
    with pytest.raises(ValueError, match=f"unknown key '{key}'"):
        load(run)


@pytest.mark.parametrize(("case", "head"), [("qwen3vl", "untied"), ("paligemma", "tied"), ("smolvlm", "untied")])
def test_every_recorded_checkpoint_fills_its_policy(case: str, head: str) -> None:
    loaded = load_released(CASES / case / "run", CASES / case / "vlm" / "config.json")
    assert loaded.head.split()[0].rstrip(":") == head
    for name, value in build_policy(loaded.config).named_buffers():
        assert torch.equal(loaded.policy.get_buffer(name), value), name
    stored = torch.load(next((CASES / case).glob("run/*/model.pt")), weights_only=True)
    for then, now in RENAMED.get(loaded.config.vlm_type, ()):
        stored = {name.replace(then, now): value for name, value in stored.items()}
    for name, value in loaded.policy.named_parameters():
        assert torch.equal(value, stored[name].float()), name


def resident_bytes(path: Path) -> int:
    """How much of the mapped ``path`` this process holds."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            inside = line.endswith(str(path.resolve()))
        elif first == "Rss:" and inside:
            total += 1024 * int(line.split()[1])
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says what is resident")
def test_what_was_read_of_a_checkpoint_is_given_back_and_still_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.arange(9 << 20, dtype=torch.float32)}, path)
    checkpoint = open_checkpoint(path, str)
    total = checkpoint.weights["a"].sum()
    size = checkpoint.weights["a"].nbytes
    assert size >= KEPT_BYTES and resident_bytes(path) >= size
    checkpoint.memory.was_read(KEPT_BYTES - 1)
    assert resident_bytes(path) >= size
    checkpoint.memory.was_read(1)
    assert resident_bytes(path) == 0
    assert checkpoint.weights["a"].sum() == total


def test_a_file_written_piece_by_piece_is_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.randn(3, 5).to(torch.bfloat16),
        "wide": torch.randn(7),
        "turned": torch.randn(4, 6).T,
        "empty": torch.zeros(0, 2, dtype=torch.float16),
        "scalar": torch.tensor(2.5),
    }
    write_safetensors(tmp_path / "x.safetensors", tensors, MappedFile(tmp_path, ()))
    got = load_file(tmp_path / "x.safetensors")
    assert got.keys() == tensors.keys()
    for name, value in tensors.items():
        assert got[name].dtype == value.dtype and torch.equal(got[name], value), name


def test_float32_arithmetic_over_narrow_weights_is_that_of_wide_weights() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Embedding(20, 16), torch.nn.LayerNorm(16), torch.nn.Conv1d(20, 8, 1), torch.nn.Linear(16, 4)
    )
    narrow = layers.to(torch.bfloat16).requires_grad_(False)
    ids = torch.arange(20)[None]
    with float32_arithmetic(MappedFile(Path("nothing"), ())):
        weight = narrow[3].weight
        got = narrow(ids).to(weight.dtype) * weight.T[0].expand(3, 4)[0]
    wide = layers.float()
    with torch.no_grad():
        expected = wide(ids) * wide[3].weight.T[0]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
