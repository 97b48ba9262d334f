"""Everything to look at on a GPU in one call of some minutes: is it right, does nothing wait, how fast is it.

    python benchmarks/gpu/measure.py --out figures.json [--parts tiny published compiled attention ...] [--fake]

Each check is written down as it ends, with its error where it fails, and the next one goes on. Exit code 1 where one
has failed. ``--fake`` runs it on a CPU with tiny sizes, to try the script itself; what of it needs Triton needs
``TRITON_INTERPRET=1`` then, too.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla_ros.bench.inference.roofline import find_peaks
from vla_ros.bench.inference.stages import Stages
from vla_ros.bench.inference.subject import Sizes, Subject, random_subject, sizes_of
from vla_ros.execution.capture import GraphCapture, free_device_memory
from vla_ros.execution.compiling import Compilation
from vla_ros.execution.runner import PolicyRunner
from vla_ros.policies.directory import load_policy
from vla_ros.policies.modules.layers.heads import additive_mask, attend_shared
from vla_ros.policies.pi.trials import image_size_of, shrink
from vla_ros.share import policy_dir

PUBLISHED = ("pi-qwen", "pi-paligemma", "pi-smol-500m")
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1}
TEXT_ROWS, TEXT_HEADS, TEXT_KV_HEADS, TEXT_HEAD_DIM = 188, 16, 8, 128
"""Of Qwen3-VL's text layers with two images."""
ROWS = (11, 51)
"""Of a chunk of 10 and of 50, and the state."""
PRODUCTS = {"qkv": (12288, 1024), "queries": (4096, 1024), "gate_up": (8192, 1024), "down": (1024, 4096)}
"""Outputs and inputs of the published expert's linear layers."""
CYCLED_BYTES = 300e6
"""Weights that a product goes through before it meets the first again: far more than a cache holds."""


class Measurements:
    """Checks by name, written to a file after each."""

    def __init__(self, path: Path, is_fake: bool) -> None:
        self.device = torch.device("cpu") if is_fake else torch.device("cuda", 0)
        self.is_fake = is_fake
        self.num_runs = 2 if is_fake else 200
        self._path = path
        self.checks: dict[str, dict[str, Any]] = {}

    @contextmanager
    def check(self, name: str) -> Iterator[dict[str, Any]]:
        """One check: its figures go into the given mapping."""
        started_s, row = time.perf_counter(), {"ok": True}
        try:
            yield row
        except Exception as error:  # whatever it was, the others are worth having
            row |= {
                "ok": False,
                "error": f"{type(error).__name__}: {error}"[:500],
                "trace": traceback.format_exc()[-1500:],
            }
        row["seconds"] = round(time.perf_counter() - started_s, 2)
        self.checks[name] = row
        self._path.write_text(json.dumps(self.checks, indent=1, default=str) + "\n")
        shown = {key: value for key, value in row.items() if key not in ("trace", "kernels")}
        print(f"{'ok  ' if row['ok'] else 'FAIL'} {name}: {shown}", flush=True)

    def device_ms(self, run: Callable[[], object], num_runs: int | None = None) -> float:
        """The median of what a call takes on the device."""
        times_ms = []
        for _ in range(num_runs or self.num_runs):
            if self.is_fake:
                started_s = time.perf_counter()
                run()
                times_ms.append(1e3 * (time.perf_counter() - started_s))
                continue
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times_ms.append(start.elapsed_time(end))
        return float(np.median(times_ms))

    def host_ms(self, run: Callable[[], object]) -> list[float]:
        """p50 and p99 of what a call takes on the host."""
        times_ms = []
        for _ in range(self.num_runs):
            started_s = time.perf_counter()
            run()
            times_ms.append(1e3 * (time.perf_counter() - started_s))
        return [float(np.percentile(times_ms, q)) for q in (50, 99)]

    def replay_of(self, run: Callable[[], object]) -> Callable[[], object]:
        """``run`` as a captured graph, where there is a GPU."""
        return run if self.is_fake else GraphCapture(self.device).capture_sync(run)

    @contextmanager
    def no_waiting(self) -> Iterator[None]:
        """Within it torch refuses to wait for the device."""
        if self.is_fake:
            yield
            return
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def memory_mb(self) -> dict[str, int]:
        """What the process holds."""
        if self.is_fake:
            return {}
        return {"allocated": torch.cuda.memory_allocated() >> 20, "reserved": torch.cuda.memory_reserved() >> 20}

    def kernels(self, run: Callable[[], object]) -> dict[str, Any]:
        """How many kernels one call takes, and the busiest: name, number, microseconds."""
        if self.is_fake:
            return {}
        from torch.profiler import ProfilerActivity, profile

        run()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
        events = [event for event in profiler.events() if str(event.device_type).endswith("CUDA")]
        sums: dict[str, list[float]] = {}
        for event in events:
            entry = sums.setdefault(event.name[:100], [0, 0.0])
            entry[0] += 1
            entry[1] += event.time_range.elapsed_us()
        busiest = sorted(([name, *values] for name, values in sums.items()), key=lambda entry: -entry[2])
        return {"num_kernels": len(events), "busy_us": sum(entry[2] for entry in busiest), "kernels": busiest[:15]}

    def subject(self, name: str) -> Subject:
        """A published policy with random weights; a tiny one of the same kind where there is no GPU."""
        sizes = sizes_of(name)
        if self.is_fake:
            small = shrink(sizes.config)
            sizes = Sizes(name, small, image_size_of(small))
        return random_subject(sizes, self.device, torch.bfloat16)


def measure_environment(here: Measurements) -> None:
    """The versions, and what the device gives at best."""
    import transformers

    with here.check("environment") as row:
        row |= {
            "date": datetime.now(UTC).isoformat(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        if not here.is_fake:
            row |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
            like = torch.empty(1 << 29, dtype=torch.bfloat16, device=here.device)
            row["copy_gb_s"] = 2 * like.nbytes / here.device_ms(lambda: like.copy_(like.flip(0)), 5) / 1e6


def measure_tiny(here: Measurements) -> None:
    """The packaged policy: captured against the CPU, and whether anything waits."""
    folder = policy_dir("tiny_touch")
    on_cpu = load_policy(folder, "cpu", with_guidance=True)
    runner = PolicyRunner(on_cpu.policy, torch.device("cpu"))
    expected = [runner.run(request).actions for request in on_cpu.warm_up_requests]
    for dtype, tolerance in TOLERANCES.items():
        with here.check(f"tiny_touch, {dtype}: as on a CPU") as row:
            loaded = load_policy(folder, here.device, dtype, with_guidance=True)
            runner = PolicyRunner(loaded.policy, here.device)
            requests = loaded.warm_up_requests
            got = [runner.run(request).actions for request in requests]
            again = [runner.run(request).actions for request in reversed(requests)][::-1]
            row["largest_difference"] = max(float(np.abs(a - b).max()) for a, b in zip(got, expected, strict=True))
            row["is_repeatable"] = all(np.array_equal(a, b) for a, b in zip(got, again, strict=True))
            row["uncaptured"] = runner.uncaptured
            row["ok"] = row["largest_difference"] < tolerance and row["is_repeatable"] and not runner.uncaptured
        with here.check(f"tiny_touch, {dtype}: nothing waits") as row, torch.inference_mode():
            inputs, prepared = loaded.policy.unpack_request(requests[0], here.device), loaded.policy.prepare()
            loaded.policy.sample(inputs, prepared)
            with here.no_waiting():
                loaded.policy.sample(inputs, prepared)
    with here.check("memory after cleanup") as row:
        del runner, loaded, got, again, inputs, prepared
        free_device_memory()
        row["memory_mb"] = here.memory_mb()
        row["ok"] = all(held == 0 for name, held in row["memory_mb"].items() if name == "allocated")


def measure_published(here: Measurements) -> None:
    """Policies of published sizes against the device's bound, stage by stage."""
    for name in PUBLISHED:
        with here.check(name) as row:
            subject = here.subject(name)
            runner = PolicyRunner(subject.policy, here.device)
            first = runner.run(subject.request).actions
            row["p50_p99_ms"] = here.host_ms(lambda: runner.run(subject.request))
            row["is_repeatable"] = bool(np.array_equal(first, runner.run(subject.request).actions))
            stages = Stages(subject, here.device)
            row["stages_ms"] = {stage: here.device_ms(run, 60) for stage, run in stages.runs.items()}
            cost, step = stages.cost(), stages.step_cost()
            assert step is not None, "a policy of two stages has steps"
            peaks = find_peaks(here.device, torch.bfloat16, step.weight_bytes)
            row["bound_ms"] = [peaks.bound_ms(cost), subject.config.num_steps * peaks.bound_ms(step)]
            row["times_the_bound"] = row["p50_p99_ms"][0] / sum(row["bound_ms"])
            row |= here.kernels(stages.runs["suffix"])
            row["kernels_per_step"] = row.get("num_kernels", 0) / subject.config.num_steps
            row["memory_mb"], row["uncaptured"] = here.memory_mb(), runner.uncaptured
            runner.drop_prepared()
            row["memory_without_what_prepares_mb"] = here.memory_mb()
            row["ok"] = bool(np.isfinite(first).all()) and row["is_repeatable"] and not runner.uncaptured
        subject = runner = stages = None
        free_device_memory()


def measure_compiled(here: Measurements) -> None:
    """Steps as written, compiled, and compiled from what the first left on disk; in one process, the same weights."""
    expected: list[np.ndarray] = []
    for name in ("as written", "compiled", "compiled, from disk"):
        with here.check(f"pi-qwen, {name}") as row:
            torch._dynamo.reset()
            subject, compilation = here.subject("pi-qwen"), None
            started_s = time.perf_counter()
            if name != "as written":
                backend = "aot_eager" if here.is_fake else "inductor"
                compilation = Compilation(subject.policy.repeated, torch.bfloat16, backend)
            runner = PolicyRunner(subject.policy, here.device, compilation)
            expected.append(runner.run(subject.request).actions)
            row["first_s"] = time.perf_counter() - started_s
            row["p50_p99_ms"] = here.host_ms(lambda: runner.run(subject.request))
            row |= here.kernels(lambda: runner.run(subject.request))
            row["not_compiled"], row["uncaptured"] = runner.not_compiled, runner.uncaptured
            row["largest_difference"] = float(np.abs(expected[-1] - expected[0]).max())
            is_near = row["largest_difference"] < TOLERANCES[torch.bfloat16]
            row["ok"] = is_near and not runner.not_compiled and not runner.uncaptured
        subject = runner = compilation = None
        free_device_memory()


def measure_attention(here: Measurements) -> None:
    """A text layer's attention, whose heads are shared, as it was and as one kernel; with cuDNN and without."""
    rows, like = TEXT_ROWS, dict(dtype=torch.bfloat16, device=here.device)
    queries = torch.randn(1, rows, TEXT_HEADS, TEXT_HEAD_DIM, **like).transpose(1, 2)
    keys, values = (torch.randn(1, rows, TEXT_KV_HEADS, TEXT_HEAD_DIM, **like).transpose(1, 2) for _ in range(2))
    mask = torch.ones(rows, rows, dtype=torch.bool, device=here.device).tril()[None, None]
    bias, plain = additive_mask(mask, torch.bfloat16), torch.nn.functional.scaled_dot_product_attention
    forms = {
        "truth values": lambda: (
            plain(queries, keys, values, attn_mask=mask, enable_gqa=True).transpose(1, 2).flatten(2)
        ),
        "numbers": lambda: plain(queries, keys, values, attn_mask=bias, enable_gqa=True).transpose(1, 2).flatten(2),
        "numbers, heads read again": lambda: attend_shared(queries, keys, values, bias),
    }
    for with_cudnn in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(with_cudnn)
        with here.check(f"attention, {'with' if with_cudnn else 'without'} cuDNN") as row, torch.inference_mode():
            results = [run() for run in forms.values()]
            for name, run in forms.items():
                row[name] = {"us": 1e3 * here.device_ms(here.replay_of(run)), **here.kernels(run)}
            row["largest_difference"] = max(float((each - results[0]).abs().max()) for each in results)
            row["ok"] = row["largest_difference"] < TOLERANCES[torch.bfloat16]


def measure_candidates(here: Measurements) -> None:
    """The candidates against the plain forms, in one process on one policy."""
    import kernels
    from kernels.install import candidates

    subject = here.subject("pi-qwen")
    subject.policy.pack_weights()
    expected: list[np.ndarray] = []
    variants = {
        "plain": (nullcontext, False),
        "candidates": (candidates, False),
        "candidates, early": (candidates, True),
    }
    for name, (variant, early_start) in variants.items():
        with here.check(f"pi-qwen, {name}") as row:
            kernels.early_start = early_start
            with variant():
                stages = Stages(subject, here.device)
                row |= {stage: here.device_ms(stages.runs[stage], 60) for stage in ("prefix", "suffix")}
                row |= here.kernels(stages.runs["suffix"])
                actions = stages.runs["suffix"]()
            assert isinstance(actions, torch.Tensor)
            expected.append(actions.float().cpu().numpy())
            row["largest_difference"] = float(np.abs(expected[-1] - expected[0]).max())
            row["ok"] = row["largest_difference"] < TOLERANCES[torch.bfloat16]
        stages = None
        gc.collect()
    kernels.early_start = False


def measure_products(here: Measurements) -> None:
    """The linear candidate over tiles, beside the library's product of the same sizes."""
    from kernels.linear import GATED, PARTIAL, PLAIN, LinearTiles, linear

    modes = {"qkv": PLAIN, "queries": PLAIN, "gate_up": GATED, "down": PARTIAL}
    for rows in ROWS:
        for name, (num_out, dim) in PRODUCTS.items():
            with here.check(f"{rows} rows, {name}") as row, torch.inference_mode():
                num = 2 if here.is_fake else max(12, int(CYCLED_BYTES / (2 * num_out * dim)))
                like = dict(dtype=torch.bfloat16, device=here.device)
                weights, x = (
                    [0.03 * torch.randn(num_out, dim, **like) for _ in range(num)],
                    torch.randn(rows, dim, **like),
                )
                library = here.replay_of(lambda: [torch.nn.functional.linear(x, weight) for weight in weights])  # noqa: B023
                row["library_us"] = 1e3 * here.device_ms(library, 8) / num
                chunks = (2, 4, 8) if modes[name] == PARTIAL else (1,)
                tiles = [
                    LinearTiles(block_out, block_dim, count, num_warps, 4 if block_dim < 1024 else 1)
                    for block_out in (16, 32, 64)
                    for block_dim, num_warps in ((128, 4), (256, 4), (512, 4), (1024, 4), (1024, 8))
                    for count in chunks
                    if block_out * block_dim <= 32768 and dim // count >= block_dim
                ]
                best = None
                for tile in tiles[:1] if here.is_fake else tiles:
                    run = here.replay_of(lambda: [linear(x, weight, None, modes[name], tile) for weight in weights])  # noqa: B023
                    us = 1e3 * here.device_ms(run, 8) / num
                    best = min(best or (us, tile), (us, tile), key=lambda found: found[0])
                assert best is not None
                row["best_us"], row["best_tiles"] = best[0], vars(replace(best[1]))


PARTS = {
    "tiny": measure_tiny,
    "published": measure_published,
    "compiled": measure_compiled,
    "attention": measure_attention,
    "candidates": measure_candidates,
    "products": measure_products,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the figures go, JSON")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all of them by default")
    parser.add_argument(
        "--fake", action="store_true", help="on a CPU with tiny sizes: tries the script, measures nothing"
    )
    args = parser.parse_args()
    if not args.fake and not torch.cuda.is_available():
        print("measure: torch sees no GPU; give --fake to try the script on a CPU", file=sys.stderr)
        return 2
    here = Measurements(args.out, args.fake)
    measure_environment(here)
    for part in args.parts:
        PARTS[part](here)
    return 0 if all(row["ok"] for row in here.checks.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
