"""The bench: what it counts and times is what it says, and it refuses what it can't measure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_helpers import PUBLISHED

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from vla_ros.audit.counting import Cost, CostCounter, count, count_published_step  # noqa: E402
from vla_ros.bench.inference.measure import measure  # noqa: E402
from vla_ros.bench.inference.paired import NUM_WARM_UP_ROUNDS, measure_interleaved, paired_ratio  # noqa: E402
from vla_ros.bench.inference.report import report_json, report_text  # noqa: E402
from vla_ros.bench.inference.roofline import Peaks, find_peaks, known_peaks  # noqa: E402
from vla_ros.bench.inference.scale import SWEEPS, ScalePoint, sweep, write_growth  # noqa: E402
from vla_ros.bench.inference.subject import Sizes, Subject, free_bytes, random_policy, random_subject, sizes_of  # noqa: E402
from vla_ros.cli import main  # noqa: E402
from vla_ros.policies.families import find_config  # noqa: E402
from vla_ros.policies.modules.action_expert.dit import DiTActionExpert  # noqa: E402
from vla_ros.policies.pi.reference import stock_forward  # noqa: E402
from vla_ros.policies.pi.trials import (  # noqa: E402
    PiTrials,
    image_size_of,
    shrink,  # noqa: E402
)

CPU = torch.device("cpu")
PROMISED_OPERATORS, PROMISED_BYTES = 600, 1.25e9


def tiny_sizes(name: str = "pi-qwen", **changes: Any) -> Sizes:
    config = replace(shrink(PUBLISHED[name]), **changes)
    vision = config.vlm_config["vision_config"]
    size = vision.get("image_size", 4 * vision["patch_size"])
    return Sizes(name, config, (size, size))


def tiny_subject(name: str = "pi-qwen") -> Subject:
    return random_subject(tiny_sizes(name), CPU, torch.float32)


def test_the_published_expert_has_957_million_parameters() -> None:
    with torch.device("meta"):
        expert = DiTActionExpert(PUBLISHED["pi-qwen"].action_expert_cfg, context_size=2048)
    assert round(sum(parameter.numel() for parameter in expert.parameters()) / 1e6) == 957


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_step_of_the_published_expert_stays_below_the_promised_operators_and_weights(dtype: torch.dtype) -> None:
    vlm = PUBLISHED["pi-qwen"].vlm_config  # of the backbone, a step sees the hidden size only
    text = {**vlm["text_config"], "num_hidden_layers": 12}
    vision = {**vlm["vision_config"], "depth": 1, "deepstack_visual_indexes": []}
    config = replace(PUBLISHED["pi-qwen"], vlm_config={**vlm, "text_config": text, "vision_config": vision})
    cost = count_published_step(config, PiTrials().make_request(config), dtype)
    assert 300 < cost.num_operators <= PROMISED_OPERATORS
    assert 1.2e9 < cost.weight_bytes * 2 / dtype.itemsize <= PROMISED_BYTES


def test_views_and_what_fakes_ask_about_themselves_are_no_operators() -> None:
    weight, x = torch.ones(4, 6), torch.ones(2, 6)
    with torch.no_grad(), CostCounter([weight]) as counter:
        (x.view(3, 4).t() @ weight[:3].view(3, 6)).unsqueeze(0)
    assert counter.cost == Cost(num_operators=1, weight_bytes=3 * 6 * 4, flops=2 * 4 * 3 * 6)


def test_a_weight_read_twice_counts_once_and_a_table_only_its_rows() -> None:
    weight, table = torch.ones(8, 4), torch.ones(1000, 4)

    def run() -> None:
        F.linear(torch.ones(1, 4), weight[:6])
        F.linear(torch.ones(1, 4), weight[2:])
        F.embedding(torch.tensor([1, 2, 3]), table)

    assert count(run, [weight, table]).weight_bytes == (8 * 4 + 3 * 4) * 4


def test_attention_on_a_cpu_counts_its_two_matrix_products() -> None:
    queries, keys = torch.ones(1, 2, 3, 8), torch.ones(1, 2, 5, 8)
    cost = count(lambda: F.scaled_dot_product_attention(queries, keys, keys), [])
    assert cost.flops == 2 * (2 * 3 * 5 * 8) * 2


def test_interleaved_runs_all_run_equally_often_and_change_places() -> None:
    order: list[str] = []
    names = ("a", "b", "c")
    times_ms = measure_interleaved({name: lambda name=name: order.append(name) for name in names}, 4, CPU)
    assert {name: len(values) for name, values in times_ms.items()} == dict.fromkeys(names, 4)
    assert order[::2] == order[1::2], "each runs twice in a row, the second time counts"
    assert all(order[::2].count(name) == NUM_WARM_UP_ROUNDS + 4 for name in names)
    assert set(order[:: 2 * len(names)]) == set(names)


def test_the_ratio_is_that_of_pairs_and_not_of_medians() -> None:
    ours = np.array([1.0, 10.0, 100.0])  # the machine became slower and slower
    assert paired_ratio(ours * [3.0, 2.0, 1.0], ours) == 2.0


def test_the_bound_is_the_longer_of_reading_and_computing() -> None:
    peaks = Peaks(bytes_per_s=1e9, flops_per_s=1e9, source="here")
    assert peaks.bound_ms(Cost(1, weight_bytes=2_000_000, flops=1_000_000)) == 2.0
    assert peaks.bound_ms(Cost(1, weight_bytes=1_000_000, flops=3_000_000)) == 3.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA GeForce RTX 5090", (1.792e12, 209.5e12)),
        ("NVIDIA L40S", (864e9, 362.05e12)),
        ("NVIDIA H100 80GB HBM3", (3.35e12, 989e12)),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", None),
        ("Orin", None),  # an AGX or one of half its bandwidth
        ("NVIDIA Thor", None),
    ],
)
def test_a_gpu_has_the_peaks_of_its_data_sheet_where_its_name_says_enough(name: str, expected) -> None:
    known = known_peaks(name)
    assert (known and (known.bytes_per_s, known.flops_per_s)) == expected


def test_weights_are_made_in_their_type_and_no_other() -> None:
    usual, policy = torch.get_default_dtype(), random_policy(tiny_sizes().config, CPU, torch.bfloat16)
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == usual


def test_measured_peaks_are_those_of_some_computer() -> None:
    peaks = find_peaks(CPU, torch.float32, 1 << 20)
    assert peaks.source == "measured"
    assert 1e7 < peaks.bytes_per_s < 1e13 and 1e7 < peaks.flops_per_s < 1e15


@pytest.mark.parametrize("name", ["pi-qwen", "pi-smol"])
def test_the_stock_forward_gives_the_states_that_the_prefix_has(name: str) -> None:
    subject = tiny_subject(name)
    inputs = subject.policy.unpack_request(subject.request).observation.policy_input
    stock = stock_forward(subject.policy, inputs)
    with torch.inference_mode():
        expected = subject.policy.vlm_bridge.final_states(inputs, subject.policy.obs_registers)
        assert (stock() - expected[:, : inputs.input_ids.shape[1]]).abs().max() < 1e-4


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_kind_is_measured_whole(name: str) -> None:
    subject = tiny_subject(name)
    report = measure(subject, CPU, num_rounds=1)
    assert report.largest_difference < 1e-4
    assert all(value is not None and value > 0 for value in (*report.speedup.values(), *report.stages_ms.values()))
    document = json.loads(json.dumps(report_json(report)))
    assert set(document["speedup"]) == {"plain_composition", "reference_as_written", "transformers_prefix"}
    assert set(document["stages_ms"]) == {"preprocessing", "copy_in", "prefix", "suffix", "copy_out"}
    assert document["bound_ms"] > 0 and document["operators_per_step"] > 0 and document["weight_bytes_per_step"] > 0
    assert "times as fast as the plain composition" in report_text(report)


def test_a_policy_without_room_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_ros.bench.inference.subject.free_bytes", lambda device: 1e6)
    with pytest.raises(ValueError, match=r"M parameters need [\d.]+ GB of memory, of which 0.0 are free; end other"):
        tiny_subject()


def test_memory_that_is_free_is_known_here() -> None:
    assert 1e6 < free_bytes(CPU) < 1e14


def test_preprocessing_makes_a_policy_input_of_two_camera_frames() -> None:
    policy_input = tiny_subject().preprocess()
    assert len(policy_input.image_grid) == 2 and policy_input.pixel_values.dtype == np.uint8


def test_mid_is_the_size_that_is_spoken_of() -> None:
    config = find_config("mid")
    text, expert = config.vlm_config["text_config"], config.action_expert_cfg
    assert (text["hidden_size"], text["num_hidden_layers"]) == (512, 8)
    assert expert.hidden_size == 512 and expert.num_hidden_layers * expert.cross_attention_every == 12
    assert expert.num_attention_heads * expert.head_dim == 2048
    assert (config.action_horizon, config.num_steps, image_size_of(config)) == (50, 10, (224, 224))


def test_a_packaged_policy_keeps_the_image_size_of_its_processor() -> None:
    assert sizes_of("tiny_touch").image_size == (64, 64)


def test_the_sweep_holds_every_point_of_every_axis_and_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    short = {name: (title, values[:2], text) for name, (title, values, text) in SWEEPS.items()}
    monkeypatch.setattr("vla_ros.bench.inference.scale.SWEEPS", short)
    lines: list[str] = []
    sweeps = sweep(tiny_sizes(), CPU, torch.float32, 1, lines.append)
    assert [point.num_cameras for point in sweeps["num_cameras"]] == [1, 2]
    assert [point.horizon for point in sweeps["horizon"]] == [10, 25]
    assert all(isinstance(point, ScalePoint) and point.suffix_ms > 0 for point in sweeps["num_steps"])
    assert sweeps["num_cameras"][1].num_tokens > sweeps["num_cameras"][0].num_tokens
    assert len(lines) == 1 + len({point for points in sweeps.values() for point in points})
    write_growth(tmp_path / "new" / "growth.png", "title", sweeps)
    assert (tmp_path / "new" / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--policy", "no_such"],
            "policy 'no_such' is neither a policy directory nor a configuration; expected one of act, mid, ",
        ),
        (["--policy", "no/such"], "policy 'no/such' does not exist"),
        (["--policy", "mid", "--repeats", "0"], "--repeats is 0; expected at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(argv: list[str], message: str, capsys: Any) -> None:
    assert main(["bench", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_the_command_prints_the_report_and_writes_it(tmp_path: Path, capsys: Any) -> None:
    threads = torch.get_num_threads()
    try:
        code = main(["bench", "--policy", "tiny_touch", "--device", "cpu", "--repeats", "1", "--num-threads", "1",
                     "--json", str(tmp_path / "b.json")])  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    assert code == 0
    assert "tiny_touch" in capsys.readouterr().out
    assert json.loads((tmp_path / "b.json").read_text())["num_threads"] == 1
