"""Policy directories: what was saved comes back, and what drifted or broke is refused in one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from policy_helpers import POLICY_FILES, observation, pi_config, policy_processor

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from vla_ros.policies.directory import infer, load_policy, save_policy  # noqa: E402
from vla_ros.policies.files import digest_of, load_processor, open_policy  # noqa: E402
from vla_ros.policies.fill import build_policy  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = pi_config()
    path = tmp_path_factory.mktemp("policy") / "tiny"
    save_policy(path, build_policy(config), policy_processor(config), observation())
    return path


@pytest.fixture
def policy_dir(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "policy"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def refusal(policy_dir: Path, load: str = "processor") -> str:
    with pytest.raises(ValueError) as caught:
        load_processor(policy_dir) if load == "processor" else load_policy(policy_dir, "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_saved_policy_loads_and_both_sides_agree_on_its_digest(saved: Path) -> None:
    loaded, processor = load_policy(saved, "cpu"), load_processor(saved)
    assert sorted(p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()) == sorted(POLICY_FILES)
    assert loaded.digest == processor.digest
    request = processor.process(observation())
    actions = infer(loaded.policy, request, torch.device("cpu"))
    chunk = processor.decode(actions, observation())
    assert chunk.positions.shape == (4, 3) and chunk.offset == 1.0 and chunk.stamp_ns == observation().stamp_ns


def test_weights_in_bfloat16_pass_the_golden_case_too(saved: Path) -> None:
    loaded = load_policy(saved, "cpu", torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.policy.parameters()} == {torch.bfloat16}


def test_noise_depends_on_the_stamp_alone(saved: Path) -> None:
    processor = load_processor(saved)
    first, again, later = (processor.process(observation(stamp_ns=stamp)) for stamp in (1, 1, 2))
    np.testing.assert_array_equal(first.noise, again.noise)
    assert not np.allclose(first.noise, later.noise)


def test_relative_actions_start_at_the_measured_joints(saved: Path) -> None:
    processor, here = load_processor(saved), observation()
    there = observation()
    there.joint_positions[:] = here.joint_positions + 1.0
    zeros = np.zeros((4, 3), np.float32)
    difference = processor.decode(zeros, there).positions - processor.decode(zeros, here).positions
    np.testing.assert_allclose(difference, 1.0)


@pytest.mark.parametrize("name", POLICY_FILES)
def test_a_missing_file_is_named(policy_dir: Path, name: str) -> None:
    (policy_dir / name).unlink()
    assert f"file {name} is missing" in refusal(policy_dir)


@pytest.mark.parametrize("name", POLICY_FILES)
def test_a_truncated_file_is_named(policy_dir: Path, name: str) -> None:
    content = (policy_dir / name).read_bytes()
    (policy_dir / name).write_bytes(content[: len(content) // 2])
    assert Path(name).name in refusal(policy_dir, "policy")


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere")


def test_an_unknown_key_is_refused_by_name(policy_dir: Path) -> None:
    edit(policy_dir / "policy.yaml", "  use_state: true", "  use_state: true\n  use_states: true")
    assert "unknown key 'use_states'" in refusal(policy_dir)


def test_a_dotted_path_is_never_imported(policy_dir: Path) -> None:
    edit(policy_dir / "policy.yaml", "type: PiPolicy", "type: os.system")
    assert "policy.type is 'os.system'; expected one of PiPolicy" in refusal(policy_dir)


def test_an_unknown_backbone_key_is_refused_by_name(policy_dir: Path) -> None:
    edit(policy_dir / "policy.yaml", "hidden_size: 32", "hiden_size: 32")
    assert "unknown key 'hiden_size'" in refusal(policy_dir, "policy")


def test_a_backbone_without_what_the_processor_needs_is_refused_by_name(policy_dir: Path) -> None:
    edit(policy_dir / "policy.yaml", "patch_size: 4", "in_channels: 3")
    assert "policy.vlm_config.vision_config.patch_size is None; expected the whole number" in refusal(policy_dir)


def test_sizes_no_model_can_have_are_refused_in_one_line(policy_dir: Path) -> None:
    edit(policy_dir / "policy.yaml", "depth: 2", "depth: two")
    assert "policy" in refusal(policy_dir, "policy")


def test_a_policy_with_another_number_of_actions_than_joints_is_refused(policy_dir: Path) -> None:
    edit(policy_dir / "policy.yaml", "  action_dim: 3", "  action_dim: 4")
    assert "policy.action_dim is 4, data.joint_names makes 3 numbers" in refusal(policy_dir)


def test_changed_statistics_are_refused_as_drift(policy_dir: Path) -> None:
    edit(policy_dir / "norm_stats.json", '"q01": [\n   [\n    -', '"q01": [\n   [\n    -1')
    assert "preprocessing drifted: golden state differs" in refusal(policy_dir)


def test_another_image_size_is_refused_as_drift(policy_dir: Path) -> None:
    edit(policy_dir / "processor/processor.json", '"image_width": 16', '"image_width": 8')
    assert "preprocessing drifted: golden pixel_values" in refusal(policy_dir)


def test_changed_weights_are_refused_as_drift(policy_dir: Path) -> None:
    weights = load_file(policy_dir / "model.safetensors")
    weights["action_out_proj.bias"] += 0.05
    save_file(weights, policy_dir / "model.safetensors")
    load_processor(policy_dir)
    assert "output drifted: golden actions differ" in refusal(policy_dir, "policy")


def test_weights_of_another_policy_are_refused_by_name(policy_dir: Path) -> None:
    weights = load_file(policy_dir / "model.safetensors")
    bias = weights.pop("action_out_proj.bias")
    save_file(weights, policy_dir / "model.safetensors")
    assert "missing weights (action_out_proj.bias)" in refusal(policy_dir, "policy")
    save_file(weights | {"action_out_proj.bias": bias[:2]}, policy_dir / "model.safetensors")
    assert "weights of another shape (action_out_proj.bias is [2], expected [3])" in refusal(policy_dir, "policy")
    save_file(weights | {"action_out_proj.bias": bias, "extra": bias.clone()}, policy_dir / "model.safetensors")
    assert "unexpected weights (extra)" in refusal(policy_dir, "policy")


def test_what_an_observation_lacks_is_named(saved: Path) -> None:
    processor, good = load_processor(saved), observation()
    no_top = replace(good, images={"front": good.images["front"]})
    with pytest.raises(ValueError, match="camera 'top' is missing; the observation has front"):
        processor.process(no_top)
    with pytest.raises(ValueError, match="expected 3 finite numbers"):
        processor.process(replace(good, joint_positions=good.joint_positions[:2]))
    with pytest.raises(ValueError, match="actions have values that are not finite"):
        processor.decode(np.full((4, 3), np.nan, np.float32), good)


def edit_stats(policy_dir: Path, key: str, field: str, factor: float) -> None:
    path = policy_dir / "norm_stats.json"
    document = json.loads(path.read_text())
    document[key][field] = (factor * np.array(document[key][field])).tolist()
    path.write_text(json.dumps(document))


def edit_config(policy_dir: Path, old: str, new: str) -> None:
    edit(policy_dir / "policy.yaml", old, new)


DECODED = "what actions mean drifted: golden"


@pytest.mark.parametrize("normalization", ["quantile", "mean_std"])
@pytest.mark.parametrize("state", ["with state", "without state"])
@pytest.mark.parametrize("actions", ["as inferred", "zero"])
def test_whatever_changes_the_joint_targets_is_refused(
    tmp_path: Path, normalization: str, state: str, actions: str
) -> None:
    torch.manual_seed(0)
    has_state = state == "with state"
    config = pi_config() if has_state else pi_config(use_state=False, state_history=0)
    processor = policy_processor(config, normalization=normalization, state_history=int(has_state))
    policy, at_zero = build_policy(config), replace(observation(), joint_positions=np.zeros(3))
    if actions == "zero":
        policy.action_out_proj.weight.data.zero_(), policy.action_out_proj.bias.data.zero_()
    save_policy(tmp_path / "saved", policy, processor, at_zero)
    changes = {
        **{
            f"action.{field}": partial(edit_stats, key="action", field=field, factor=1.5)
            for field in ("mean", "std", "q01", "q99")
        },
        "reference": partial(edit_config, old="action_mode: null", new="action_mode: absolute"),
        "dt": partial(edit_config, old="chunk_dt_s: 0.1", new="chunk_dt_s: 0.11"),
        "offset": partial(edit_config, old="action_offset: 1.0", new="action_offset: 0.0"),
        "joints": partial(edit_config, old="- base\n  - shoulder", new="- shoulder\n  - base"),
    }
    for what, change in changes.items():
        folder = tmp_path / what
        shutil.copytree(tmp_path / "saved", folder)
        change(folder)
        assert DECODED in refusal(folder), what
        assert load_policy(folder, "cpu", refuse_drift=False).drift, what
    load_policy(tmp_path / "saved", "cpu")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("chunk_dt_s: 0.1", "chunk_dt_s: 1.0e+9", "data.chunk_dt_s is 1000000000.0; expected 0.001 to 10.0 s"),
        ("chunk_dt_s: 0.1", "chunk_dt_s: 1.0e-9", "data.chunk_dt_s is 1e-09; expected 0.001 to 10.0 s"),
        (
            "action_offset: 1.0",
            "action_offset: -1000",
            "data.action_offset is -1000.0, in actions; expected at most the",
        ),
    ],
)
def test_times_that_no_robot_can_have_are_refused(policy_dir: Path, old: str, new: str, expected: str) -> None:
    edit(policy_dir / "policy.yaml", old, new)
    assert expected in refusal(policy_dir)


@pytest.mark.parametrize(
    ("field", "factor", "expected"),
    [
        ("std", -1.0, "std below 0"),
        ("std", 0.0, "a std is 0"),
        ("mean", 1e12, "expected at most 1e+06"),
        ("q99", -9.0, "q99 below q01"),
        ("mean", float("inf"), "expected finite values"),
    ],
)
def test_statistics_that_no_data_can_have_are_refused(
    policy_dir: Path, field: str, factor: float, expected: str
) -> None:
    edit(policy_dir / "policy.yaml", "normalization: quantile", "normalization: mean_std")
    edit_stats(policy_dir, "action", field, factor)
    assert expected in refusal(policy_dir)


def test_a_directory_of_an_earlier_release_loads_and_says_what_it_lacks(policy_dir: Path) -> None:
    path = policy_dir / "golden.safetensors"
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("decoded.")}
        metadata = file.metadata()
    assert not load_policy(policy_dir, "cpu").notes
    save_file(tensors, path, metadata)
    (note,) = load_policy(policy_dir, "cpu").notes
    assert "golden.safetensors is of an earlier release" in note and "export it again" in note


def test_what_was_checked_runs_whatever_becomes_of_the_files(policy_dir: Path) -> None:
    loaded = load_policy(policy_dir, "cpu")
    request = loaded.warm_up_requests[0]
    before = infer(loaded.policy, request, torch.device("cpu"))
    path = policy_dir / "model.safetensors"
    assert str(path) not in Path("/proc/self/maps").read_text()  # or the process would be killed when it gets shorter
    with path.open("r+b") as file:  # in place, as cp, scp and rsync --inplace do
        file.seek(-20_000, 2)
        file.write(bytes(20_000))
    np.testing.assert_array_equal(infer(loaded.policy, request, torch.device("cpu")), before)
    assert loaded.digest != digest_of(policy_dir)


def test_files_that_change_while_they_are_read_are_refused(policy_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(*args: object) -> str:
        edit(policy_dir / "processor/processor.json", '"camera_height"', ' "camera_height"')
        return "hash"

    with pytest.raises(ValueError, match="its files changed while they were read; load it again"):
        open_policy(policy_dir, hash_weights=change)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"[]", "damaged ("),
        (b"{" * 30_000, "damaged ("),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}', "damaged ("),
        (b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 8]}}', "damaged ("),
        (b'{"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}', "damaged (it has tensors of"),
        (b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}', "damaged ("),
        (b"{}", "damaged ("),
    ],
)
def test_a_file_of_weights_that_cannot_be_is_refused(policy_dir: Path, header: bytes, expected: str) -> None:
    (policy_dir / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert f"model.safetensors: {expected}" in refusal(policy_dir, "policy")
