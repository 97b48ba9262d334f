"""Whether training is the same on any number of processes, and what its layers cost checkpointed, compiled and sharded:
`python benchmarks/sharded_training.py [--rows losses precision gathers checkpointing start compile]`.

All of a tiny policy of the pi family with made-up samples, on CPUs, in float32, by gloo. The samples' answers have from
no to eight tokens and their chunks reach beyond the ends of episodes, so that processes have different numbers of
targets, and up to three actions are frozen.

losses         50 steps of the same run on 1, 2 and 4 processes, and on 4 as if they were 2 machines of 2
precision      the same 50 steps computed in bfloat16, on 1 and 2 processes, against 1 in float32
gathers        all-gathers and reduce-scatters of each group of weights in one step on 2 processes
checkpointing  8 text layers and 8 blocks: loss, gradients, and how much more memory is taken than before the step
start          memory of each of 2 and 4 processes after a start from a file of pi-smol's weights (2 of its 12 expert
               layers, 8 of its 30 text layers) above that for a policy of 1 MB, by the process's share of the weights
compile        each layer whole, without a break of its graph: loss and gradients

Exits 1 where a figure misses its limit.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

from vla_ros.policies.config import DataConfig
from vla_ros.policies.families import find_config
from vla_ros.policies.fill import build_on_meta, build_policy
from vla_ros.policies.modules.action_expert.config import ActionExpertConfig
from vla_ros.policies.modules.vlm_bridge.processor import ProcessorConfig
from vla_ros.policies.modules.vlm_bridge.qwen.processor import LOCATION_TOKENS, train_tokenizer
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.policy import PiPolicy
from vla_ros.policies.pi.processor import PiProcessor
from vla_ros.training.config import PRECISIONS, LearningRates, OptimizerConfig, TrainConfig
from vla_ros.training.dataset import Frames
from vla_ros.training.parallelize import parallelize
from vla_ros.training.pictures import HeldPictures
from vla_ros.training.processes import Processes, joined
from vla_ros.training.samples import SampleMaker, Split
from vla_ros.training.shards import read_shards
from vla_ros.training.trainer import Trainer
from vla_ros.transforms.normalize import compute_stats
from vla_ros.transforms.sample import TextTarget

JOINTS, CAMERAS, HORIZON = ("base", "shoulder", "wrist"), ("front",), 6
TASK, BATCH_SIZE, NUM_STEPS, NUM_SAMPLES, SIDE = "touch the red block", 8, 50, 64, 16
SMALL_GRADIENT = 1e-3
LIMITS = {
    "losses": 1e-5, "bfloat16": 0.05, "all_gathers": 2, "reduce_scatters": 1, "checkpointed_difference": 0.0,
    "checkpointed_peak": 0.5, "compiled_difference": 1e-5, "memory": 1.3,
}  # fmt: skip
ROWS = ("losses", "precision", "gathers", "checkpointing", "start", "compile")


def make_config(num_layers: int = 2, width: int = 32) -> PiConfig:
    """With as many text layers as blocks of the expert."""
    text = {
        "vocab_size": 400, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": num_layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
        "initializer_range": 0.1,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True,
        },
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2, "patch_size": 4,
        "spatial_merge_size": 1, "temporal_patch_size": 2, "out_hidden_size": width, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0], "initializer_range": 0.1,
    }  # fmt: skip
    ids = {"image_token_id": 4, "vision_start_token_id": 2, "vision_end_token_id": 3, "video_token_id": 0}
    return PiConfig(
        type="PiPolicy",
        vlm_type="Qwen3VLForConditionalGeneration",
        vlm_config={**ids, "tie_word_embeddings": False, "text_config": text, "vision_config": vision},
        action_expert_cfg=ActionExpertConfig(width, 2 * width, 2, 1, 16, num_layers // 2),
        action_horizon=HORIZON,
        action_dim=len(JOINTS),
        state_dim=len(JOINTS),
        max_frozen_actions=3,
        num_noise_per_sample=2,
    )


def make_text(rng: np.random.Generator) -> TextTarget:
    """A question with an answer of random length, sometimes none."""
    return TextTarget("where is it?", "".join(rng.choice(LOCATION_TOKENS, rng.integers(9))))


def make_samples(config: PiConfig) -> SampleMaker:
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(NUM_SAMPLES, len(JOINTS)))
    frames = Frames(
        images=HeldPictures(rng.integers(0, 256, (NUM_SAMPLES, 1, SIDE, SIDE, 3), np.uint8)),
        joint_positions=joints,
        actions=joints[:, None] + rng.normal(size=(NUM_SAMPLES, HORIZON, len(JOINTS))),
        num_known=rng.integers(1, HORIZON + 1, NUM_SAMPLES),
        episode=np.arange(NUM_SAMPLES),
        driver=np.full(NUM_SAMPLES, ""),
        is_intervention=np.zeros(NUM_SAMPLES, bool),
        weight=np.ones(NUM_SAMPLES),
        tasks=(TASK,) * NUM_SAMPLES,
        texts=tuple(make_text(rng) for _ in range(NUM_SAMPLES)),
        scenes=({"red": (0.0, 0.0)},) * NUM_SAMPLES,
    )
    data = DataConfig(JOINTS, CAMERAS, HORIZON, chunk_dt_s=0.1)
    settings = ProcessorConfig("QwenProcessor", SIDE, SIDE, SIDE, SIDE, buckets=(40, 48, 64, 96))
    tokenizer = train_tokenizer((TASK, "where is it?"), vocab_size=400, extra_tokens=LOCATION_TOKENS)
    stats = {"state": compute_stats(joints[:, None]), "action": compute_stats(frames.actions)}
    return SampleMaker(frames, PiProcessor(config, data, settings, tokenizer, stats))


def make_policy(config: PiConfig) -> PiPolicy:
    torch.manual_seed(0)
    policy = build_policy(config)
    assert isinstance(policy, PiPolicy)
    with torch.no_grad():  # modulations start at zero, which would hide mistakes in them
        for parameter in policy.action_expert.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy


def make_trainer(
    processes: Processes,
    run_dir: str = "",
    num_steps: int = NUM_STEPS,
    precision: str = "float32",
    **changes: Any,
) -> Trainer:
    config, samples = make_config(), make_samples(make_config())
    optimizer = OptimizerConfig(num_steps=num_steps, batch_size=BATCH_SIZE, warmup_steps=5)
    train = TrainConfig(
        "",
        (),
        run_dir,
        "",
        config,
        DataConfig(JOINTS, CAMERAS, HORIZON, chunk_dt_s=0.1),
        optimizer,
        LearningRates(1e-3),
        precision=precision,
        device="cpu",
        **changes,
    )
    split = Split(np.arange(NUM_SAMPLES - 7), np.arange(NUM_SAMPLES - 7, NUM_SAMPLES))
    return Trainer(train, make_policy(config), samples, split, processes)


@dataclass(frozen=True)
class Step:
    """A loss, the gradients, and how many bytes more than before were taken at the worst moment."""

    loss: torch.Tensor
    gradients: dict[str, torch.Tensor]
    peak_bytes: int

    def difference(self, other: Step) -> float:
        """The largest of the loss and of each weight's gradient, by its norm, or by a thousandth of the whole
        gradient's where that is more: the bias of keys has none but rounding, as softmax doesn't see it."""
        whole = float(torch.stack([value.norm() for value in other.gradients.values()]).norm())
        errors = [abs(float(self.loss / other.loss - 1))]
        for name, value in other.gradients.items():
            scale = max(float(value.norm()), SMALL_GRADIENT * whole)
            errors.append(float((self.gradients[name] - value).norm()) / scale)
        return max(errors)


def measure_step(num_layers: int, num_samples: int, **how: bool) -> Step:
    config = make_config(num_layers, width=64)
    policy, samples = make_policy(config), make_samples(config)
    with joined() as processes:
        parallelize(policy, processes, torch.device("cpu"), **how)
    rngs = [np.random.default_rng([1, i]) for i in range(num_samples)]
    sample, draws = policy.unpack_batch(samples.batch(np.arange(num_samples), rngs)), policy.draw(rngs)
    for _ in range(2):  # the first one compiles
        policy.zero_grad()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            loss = policy.compute_loss(sample, draws).total
            loss.backward()
    return Step(loss.detach(), {name: value.grad for name, value in policy.named_parameters()}, peak_bytes(profiler))


def peak_bytes(profiler: profile) -> int:
    """Of all memory taken and given back."""
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).max())


def measure_gathers(processes: Processes) -> dict[str, Counter[str]]:
    """How often each group of weights was gathered and reduced in a step."""
    trainer = make_trainer(processes)
    trainer._train_step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        trainer._train_step()
    kinds = {
        "all_gathers": r"FSDP::all_gather( \((.*)\))?",
        "reduce_scatters": r"FSDP::post_backward_reduce( \((.*)\))?",
    }
    counts = {kind: Counter() for kind in kinds}
    for event in profiler.events():
        for kind, pattern in kinds.items():
            if found := re.fullmatch(pattern, event.name):
                counts[kind][found[2] or "root"] += 1
    return counts


def large_config() -> PiConfig:
    """That of pi-smol with fewer layers."""
    config = find_config("pi-smol")
    assert isinstance(config, PiConfig)
    text = {**config.vlm_config["text_config"], "num_hidden_layers": 8}
    expert = replace(config.action_expert_cfg, num_hidden_layers=2)
    return replace(config, vlm_config={**config.vlm_config, "text_config": text}, action_expert_cfg=expert)


def write_weights(path: Path, config: PiConfig) -> None:
    """A file of weights of 0.01, written without ever holding them."""
    shapes = {name: weight.shape for name, weight in build_on_meta(config, "policy").named_parameters()}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * shape.numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            for num in [1 << 20] * (shape.numel() >> 20) + [shape.numel() % (1 << 20)]:
                file.write(np.full(num, 0.01, np.float32).tobytes())


def measure_start(processes: Processes, folder: Path) -> list[float]:
    """The most memory this process took for a small policy and for a large one, and its share of the latter, bytes."""
    peaks, shares = [], []
    for name, config in (("small", make_config()), ("large", large_config())):
        policy = build_on_meta(config, "policy")
        parallelize(policy, processes, torch.device("cpu"))
        read_shards(policy, folder / name, torch.device("cpu"))
        parts = [value.to_local() for value in policy.parameters() if isinstance(value, DTensor)]
        assert all(bool((part == np.float32(0.01)).all()) for part in parts)
        shares.append(4 * sum(part.numel() for part in parts))
        peaks.append(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return [*peaks, shares[-1]]


def worker(kind: str, result: Path, num_local: int) -> None:
    torch.set_num_threads(1)
    with joined() as processes:
        processes = replace(processes, num_local=min(num_local, processes.num))
        figures: Any = None
        if kind in PRECISIONS:
            trainer = make_trainer(processes, precision=kind)
            figures = []
            for _ in range(NUM_STEPS):
                figures.append(trainer._train_step())
                trainer._step += 1
        elif kind == "gathers":
            figures = measure_gathers(processes)
        else:  # a folder of weights
            figures = measure_start(processes, Path(kind))
    if processes.is_first:
        result.write_text(json.dumps(figures))


def run_worker(kind: str, num_processes: int, num_local: int) -> Any:
    """What ``worker`` came to on so many processes of torchrun; one process needs none."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(num_processes)] if num_processes > 1 else []
        mine = [__file__, "--worker", kind, str(result), str(num_local)]
        subprocess.run([sys.executable, *launcher, *mine], check=True)
        return json.loads(result.read_text())


def row_losses() -> dict[str, float]:
    alone = np.array(run_worker("float32", 1, 1))
    print(f"loss of 1 process: {alone[0]:.6f} at first, {alone[-1]:.6f} after {NUM_STEPS} steps")
    figures = {}
    for name, num, num_local in (("2", 2, 2), ("4", 4, 4), ("2 machines of 2", 4, 2)):
        other = np.array(run_worker("float32", num, num_local))
        figures[f"losses of 1 and {name}"] = float(np.abs(other / alone - 1).max())
    return figures


def row_precision() -> dict[str, float]:
    alone = np.array(run_worker("float32", 1, 1))
    halves = {num: np.array(run_worker("bfloat16", num, num)) for num in (1, 2)}
    return {f"bfloat16 on {num}": float(np.abs(half / alone - 1).max()) for num, half in halves.items()}


def row_gathers() -> dict[str, float]:
    counts = run_worker("gathers", 2, 2)
    for kind, groups in counts.items():
        print(f"{kind}: {len(groups)} groups, {sum(groups.values())} in all")
    return {kind: float(max(groups.values())) for kind, groups in counts.items()}


def row_checkpointing() -> dict[str, float]:
    plain, checkpointed = (measure_step(8, 16, checkpoint_layers=on) for on in (False, True))
    print(f"peak {plain.peak_bytes / 1e6:.1f} MB, checkpointed {checkpointed.peak_bytes / 1e6:.1f} MB")
    return {
        "checkpointed_difference": checkpointed.difference(plain),
        "checkpointed_peak": checkpointed.peak_bytes / plain.peak_bytes,
    }


def row_start() -> dict[str, float]:
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder) / "small", make_config())
        write_weights(Path(folder) / "large", large_config())
        for num in (2, 4):
            small, large, share = run_worker(folder, num, num)
            print(f"{num} processes: share {share / 1e6:.0f} MB, peak {large / 1e6:.0f} MB, empty {small / 1e6:.0f} MB")
            figures[f"memory of {num}"] = (large - small) / share
    return figures


def row_compile() -> dict[str, float]:
    plain, compiled = (measure_step(4, 4, compile_layers=on) for on in (False, True))
    both = measure_step(4, 4, compile_layers=True, checkpoint_layers=True)
    return {
        "compiled_difference": compiled.difference(plain),
        "compiled_difference, checkpointed": both.difference(plain),
    }


def report(figures: Mapping[str, float], of_all: Mapping[str, float], json_file: str | None) -> int:
    """Print each figure beside its limit, that of ``of_all`` whose name its own begins with, and write them to
    ``json_file``; the exit code, 1 where one is beyond."""
    limits = {name: next(limit for key, limit in of_all.items() if name.startswith(key)) for name in figures}
    for name, value in figures.items():
        print(f"{name}: {value:.3g} (limit {limits[name]:g})")
    if json_file:
        Path(json_file).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(value <= limits[name] for name, value in figures.items()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="which to measure (default all)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker[0], Path(args.worker[1]), int(args.worker[2]))
        return 0
    torch.set_num_threads(1)
    rows: dict[str, Callable[[], dict[str, float]]] = {
        "losses": row_losses, "precision": row_precision, "gathers": row_gathers, "checkpointing": row_checkpointing,
        "start": row_start, "compile": row_compile,
    }  # fmt: skip
    figures = {name: value for row in args.rows for name, value in rows[row]().items()}
    return report(figures, LIMITS, args.json)


if __name__ == "__main__":
    sys.exit(main())
