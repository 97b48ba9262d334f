"""The audit: what waits is found, with its line; what doesn't isn't. Fake devices live in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from policy_helpers import PUBLISHED, observation, pi_config, policy_processor, vlm_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from vla_ros.audit.counting import Cost  # noqa: E402
from vla_ros.audit.graph import graph_events  # noqa: E402
from vla_ros.audit.kernels import Kernels  # noqa: E402
from vla_ros.audit.passes import PassReport, host_pass  # noqa: E402
from vla_ros.audit.watch import COPY_IN, COPY_OUT, PYTHON_DATA, WAIT, DeviceEvent, watched  # noqa: E402
from vla_ros.cli import audit as command  # noqa: E402
from vla_ros.cli import main  # noqa: E402
from vla_ros.policies.directory import save_policy  # noqa: E402
from vla_ros.policies.fill import build_policy  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.qwen.bridge import build_config  # noqa: E402
from vla_ros.policies.pi.request import PiRequest  # noqa: E402
from vla_ros.policies.pi.trials import (  # noqa: E402
    image_size_of,
    shrink,  # noqa: E402
    synthetic_request,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLANTS_FILE = HERE / "audit_plants.py"

SCALAR, ITEM = "aten._local_scalar_dense", "aten.item"
COPY, TO = "aten._to_copy", "aten.to.dtype_layout"
# For each planted line: what each pass calls it. A copy can't be seen where there is but one device.
EXPECTED = {
    "item": {"accelerator": {(WAIT, SCALAR)}, "host": {(WAIT, SCALAR)}, "graph": {(WAIT, ITEM)}},
    "tolist": {"accelerator": {(WAIT, SCALAR)}, "host": {(WAIT, "tolist")}, "graph": {(WAIT, ITEM)}},
    "boolean_index": dict.fromkeys(("accelerator", "host", "graph"), {(WAIT, "aten.index.Tensor")}),
    "branch": dict.fromkeys(("accelerator", "host", "graph"), {(WAIT, SCALAR)}),
    "nonzero": dict.fromkeys(("accelerator", "host", "graph"), {(WAIT, "aten.nonzero")}),
    "numpy": dict.fromkeys(("accelerator", "host", "graph"), {(WAIT, "numpy")}),
    "python_data": {
        "accelerator": {(PYTHON_DATA, "aten.lift_fresh"), (COPY_IN, COPY)},
        "host": {(PYTHON_DATA, "aten.lift_fresh")},
        "graph": {(PYTHON_DATA, "aten.lift_fresh_copy"), (COPY_IN, TO)},
    },
    "to_host": {"accelerator": {(COPY_OUT, COPY)}, "host": set(), "graph": {(COPY_OUT, TO)}},
    "to_device": {"accelerator": {(COPY_IN, COPY)}, "host": set(), "graph": {(COPY_IN, TO)}},
}


def run_python(*args: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *args], env=env, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def planted_events():
    """Events by plant and pass."""
    done = run_python(str(PLANTS_FILE))
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def line_of(plant: str) -> int:
    lines = PLANTS_FILE.read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.endswith(f"# plant: {plant}"))


def assert_found(events: list[dict], plant: str, expected: set) -> None:
    """Those events and no others, all of the planted line."""
    assert {Path(event["file"]).name for event in events} <= {PLANTS_FILE.name}
    assert {event["line"] for event in events} <= {line_of(plant)}
    found = {(event["kind"], event["operator"]) for event in events}
    assert len(found) == len(expected)
    for kind, operator in expected:
        assert any(kind == other[0] and other[1].startswith(operator) for other in found), found


@pytest.mark.parametrize("plant", EXPECTED)
def test_a_planted_line_is_found_by_the_pass_that_can_see_it(planted_events, plant):
    for name, expected in EXPECTED[plant].items():
        assert_found(planted_events[plant][name], plant, expected)


@pytest.mark.parametrize("plant", ["item", "to_device"])
@pytest.mark.parametrize("variant", ["guided", "frozen"])
def test_a_planted_line_is_found_in_a_guided_inference_too(planted_events, variant, plant):
    passes = ("accelerator", "host") if variant == "guided" else ("accelerator", "host", "graph")
    events = planted_events[f"{variant}_{plant}"]
    assert events.keys() == {f"{name}_guided" for name in passes}
    for name in passes:
        assert_found(events[f"{name}_guided"], plant, EXPECTED[plant][name])


def test_a_step_of_the_published_expert_is_at_most_360_kernels_none_of_them_a_copy(planted_events):
    one, two = planted_events["kernels"]
    assert one["total"] + 11 * (two["total"] - one["total"]) <= 360
    assert two["copies"] == 0


@pytest.mark.parametrize("variant", ["guided", "frozen"])
def test_a_guided_inference_waits_for_nothing_and_moves_nothing(planted_events, variant):
    assert not any(planted_events[f"{variant}_nothing"].values())


@pytest.mark.parametrize("plant", ["nothing", "filled"])
def test_a_policy_that_waits_for_nothing_has_no_events(planted_events, plant):
    assert planted_events[plant] == {"accelerator": [], "host": [], "graph": []}


def test_a_second_copy_by_the_staging_buffers_is_not_a_declared_one(planted_events):
    (event,) = planted_events["second_copy"]["accelerator"]
    assert (event["kind"], event["file"]) == (COPY_IN, "vla_ros/execution/staging.py")


def test_a_policy_directory_passes_on_the_command_line(tmp_path):
    config = pi_config(num_steps=2)
    torch.manual_seed(0)
    save_policy(tmp_path / "policy", build_policy(config).eval(), policy_processor(config), observation())
    report = tmp_path / "audit.json"
    done = run_python("-m", "vla_ros.cli", "audit", "--policy", str(tmp_path / "policy"), "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f"{tmp_path / 'policy'}: nothing waits"
    values = json.loads(report.read_text())
    assert (values["waits"], values["transfers"], values["events"]) == (0, 0, [])
    assert {"accelerator", "host", "graph", "accelerator_guided", "host_guided"} <= set(values["passes"])
    assert values["passes"]["accelerator"]["declared_transfers"] == 2
    assert values["passes"]["accelerator_guided"]["declared_transfers"] == 2
    assert all(report["complete"] for report in values["passes"].values())
    assert values["operators_per_step"] > 0 and values["weight_bytes_per_step"] > 0
    assert values["kernels"].keys() == {"prefix", "step"}
    assert values["kernels"]["step"]["hidden_copies"] == 0


def test_a_computation_that_branches_on_a_value_has_no_graph():
    def run(tensors):
        return tensors["x"] if tensors["x"].sum() > 0 else -tensors["x"]

    (event,) = graph_events(run, {"x": torch.ones(3)})
    assert event.operator.startswith("not exportable")
    assert (event.kind, event.line) == (WAIT, run.__code__.co_firstlineno + 1)


def test_an_event_is_printed_written_and_exit_code_1(monkeypatch, tmp_path, capsys):
    event = DeviceEvent(WAIT, "aten.item", "vla_ros/somewhere.py", 7)
    copy = DeviceEvent(COPY_IN, "aten._to_copy", "vla_ros/elsewhere.py", 8)
    reports = (PassReport((event, event, copy), 0, False, "host", 1.0),)
    monkeypatch.setattr("vla_ros.audit.passes.audit", lambda config, request: reports)
    monkeypatch.setattr("vla_ros.audit.counting.count_published_step", lambda *_: Cost(600, 10**9, 0))
    counted = Kernels(Counter(add=3, cat=2), 2, 1, 4)
    monkeypatch.setattr("vla_ros.audit.kernels.count_published_kernels", lambda *_: {"step": counted})
    assert main(["audit", "--policy", "pi-qwen", "--json", str(tmp_path / "audit.json")]) == 1
    printed = capsys.readouterr().out
    assert "aten.item  vla_ros/somewhere.py:7  2 times" in printed
    assert "pi-qwen: 2 waits, 1 undeclared transfers" in printed
    assert "step on CUDA: 5 kernels, 2 of them copies (1 hidden); 4 products may be one more each" in printed
    values = json.loads((tmp_path / "audit.json").read_text())
    assert (values["waits"], values["transfers"]) == (2, 1)
    assert (values["operators_per_step"], values["weight_bytes_per_step"]) == (600, 10**9)
    assert (values["kernels"]["step"]["total"], values["kernels"]["step"]["names"]) == (5, {"add": 3, "cat": 2})
    assert values["events"][0] == {
        "pass": "host",
        "kind": WAIT,
        "operator": "aten.item",
        "file": "vla_ros/somewhere.py",
        "line": 7,
    }


@pytest.mark.parametrize("name", ["pi-nothing", "folder/that/is/not/there"])
def test_a_policy_that_does_not_exist_is_refused_in_one_line(name, capsys):
    assert main(["audit", "--policy", name]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and name in message and "pi-qwen" in message


def stock_events(vision_depth: int) -> list[DeviceEvent]:
    """What transformers' own forward of Qwen3-VL does with one image and some text."""
    document = vlm_config(merge=2, deepstack=(0,))
    document["vision_config"]["depth"] = vision_depth
    request = synthetic_request(pi_config(vlm_config=document), 1, (16, 16), num_text_tokens=6)
    ids = torch.from_numpy(request.policy_input.input_ids)[None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == document["image_token_id"]).long(),
        "pixel_values": torch.zeros(len(request.policy_input.pixel_values), 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor(request.policy_input.image_grid),
    }
    model = transformers.Qwen3VLForConditionalGeneration(build_config(document)).eval()
    with torch.inference_mode(), watched(host_stands_in=True) as events:
        model(**inputs, use_cache=False)
    return events


def test_transformers_own_forward_waits_three_times_more_with_every_vision_layer():
    shallow, deep = stock_events(1), stock_events(3)
    assert len(shallow) > 10
    assert len(deep) == len(shallow) + 2 * 3
    assert any(event.file.endswith("modeling_qwen3_vl.py") and event.operator == "tolist" for event in deep)


def test_a_branch_on_a_tensor_is_a_wait_in_inference_mode_too():
    tensor = torch.ones(3)
    with torch.inference_mode(), watched(host_stands_in=True) as events:
        assert tensor.sum() > 0
    assert [event.kind for event in events] == [WAIT]


def test_reading_the_hosts_own_tensors_is_no_wait_beside_a_device():
    with watched() as events:
        torch.ones(3).tolist()
        torch.ones(3).sum().item()
    assert events == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tiny_version_of_a_published_policy_is_small_waits_for_nothing_and_runs(name):
    tiny = shrink(PUBLISHED[name])
    request = synthetic_request(tiny, 2, image_size_of(tiny), num_text_tokens=6)
    built = []

    def build(config):
        from vla_ros.policies.fill import build_policy

        built.append(build_policy(config))
        return built[-1]

    report = host_pass(tiny, request, build)
    assert report.events == () and report.complete
    assert sum(parameter.numel() for parameter in built[0].parameters()) < 2_000_000


@pytest.mark.parametrize("name", ["pi-qwen", "pi-paligemma2"])
def test_a_tiny_version_keeps_what_decides_which_operators_run(name):
    config, tiny = PUBLISHED[name], shrink(PUBLISHED[name])
    sizes = {"vlm_config": {}, "action_expert_cfg": tiny.action_expert_cfg, "num_steps": tiny.num_steps}
    assert replace(tiny, **sizes) == replace(config, **sizes)
    for group in ("text_config", "vision_config"):
        assert set(config.vlm_config[group]) <= set(tiny.vlm_config[group])
    deepstack = "deepstack_visual_indexes"
    assert len(tiny.vlm_config["vision_config"].get(deepstack, ())) == len(
        config.vlm_config["vision_config"].get(deepstack, ())
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_synthetic_request_is_one_that_the_policy_takes(name):
    tiny = shrink(PUBLISHED[name])
    request = synthetic_request(tiny, 3, image_size_of(tiny), num_text_tokens=6, seed=1)
    from vla_ros.policies.fill import build_policy

    build_policy(tiny).check_request(request)
    restored = PiRequest.from_tensors(request.to_tensors(), request.metadata())
    for key, array in request.to_tensors().items():
        np.testing.assert_array_equal(restored.to_tensors()[key], array)
    again = synthetic_request(tiny, 3, image_size_of(tiny), num_text_tokens=6, seed=1)
    np.testing.assert_array_equal(again.policy_input.pixel_values, request.policy_input.pixel_values)


def test_a_published_request_has_about_180_tokens_for_two_cameras():
    _, request = command._policy("pi-qwen")
    assert request.policy_input.input_ids.shape == (180,)
    assert len(request.policy_input.image_grid) == 2
