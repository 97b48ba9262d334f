"""How much host memory `vla_ros import` takes, against the size of the checkpoint:
`python benchmarks/import_memory.py [--pi0]`.

A released run of random weights (with --pi0: LeRobot's checkpoint of a pi0) is made, then imported in a fresh process.
Its peak resident memory (VmHWM of Linux, which counts the mapped checkpoint too) is set against the one it had after
importing one of a few kB, when every library is loaded. Exits 1 above 1.3 times the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

LIMIT = 1.3
NUM_JOINTS, HORIZON = 6, 10
ROBOT_YAML = Path(__file__).resolve().parents[1] / "config" / "robots" / "tabletop.yaml"
TARGETS = "vla_scratch.policies"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400, metavar="MB", help="size of the checkpoint (default 400)")
    parser.add_argument("--pi0", action="store_true", help="LeRobot's layout of a pi0 in bfloat16")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--measure", nargs=2, metavar="RUN", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(*map(Path, args.measure))
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        if args.pi0:
            make_pi0(small, megabytes=0)
            size = make_pi0(large, args.megabytes)
        else:
            make_run(small, num_layers=2, width=64)
            size = make_run(large, num_layers=max(2, round((args.megabytes - 70) / 27)), width=1024)
        command = (sys.executable, __file__, "--measure", str(small), str(large))
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    before, peak = json.loads(lines[-1])
    ratio = (peak - before) / size
    print(
        f"checkpoint {size / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, of it the process itself {before / 1e6:.0f} MB: "
        f"{ratio:.2f} x the checkpoint (limit {LIMIT}); all together {peak / size:.2f} x"
    )
    if args.json:
        figures = {"checkpoint_bytes": size, "peak_bytes": peak, "process_bytes": before, "ratio": ratio}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if ratio <= LIMIT else 1


def measure(small: Path, large: Path) -> int:
    """Import both in this process; prints the peaks after each, in bytes."""
    from vla_ros.cli import main as vla_ros

    peaks = []
    for run in (small, large):
        space = run.parent / "space.yaml"
        options = ["--robot", str(ROBOT_YAML), *(["--space", str(space)] if space.is_file() else [])]
        code = vla_ros(["import", str(run), str(run.parent / f"{run.name}-policy"), *options])
        assert code == 0, "the import failed"
        peaks.append(peak_bytes())
    print(json.dumps(peaks))
    return 0


def peak_bytes() -> int:
    """The most memory that was resident in this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def make_pi0(folder: Path, megabytes: int) -> int:
    """LeRobot's checkpoint of a pi0 with as many layers of the published width as fit, or a tiny one for 0; returns
    the size of its weights in bytes."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "unit"))
    import pi0_helpers
    import torch

    from vla_ros.policies.fill import build_on_meta
    from vla_ros.policies.importing.mapped import MappedFile
    from vla_ros.policies.importing.writer import write_safetensors
    from vla_ros.policies.modules.layers.sizes import GemmaSizes, SiglipSizes

    pi0_helpers.write_space(folder.parent / "space.yaml")
    written = pi0_helpers.write_lerobot(folder, "pi0")
    path = folder / "model.safetensors"
    if megabytes:
        # 220 MB of a text layer, 27 of one of the expert, 25 of one of the tower.
        shared = {
            "num_layers": max(2, round((megabytes - 240) / 247)),
            "num_heads": 8,
            "num_kv_heads": 1,
            "head_dim": 256,
        }
        config = pi0_helpers.tiny_config(
            "pi0",
            vocab_size=16384,
            text=GemmaSizes(width=2048, mlp_dim=16384, **shared),
            expert=GemmaSizes(width=1024, mlp_dim=4096, **shared),
            vision=SiglipSizes(width=1152, mlp_dim=4304, num_layers=4, num_heads=16, patch_size=14, image_size=224),
        )
        written.edit("config.json", lambda document: document.update(image_resolution=[224, 224]))
        number = torch.full((), 0.01, dtype=torch.bfloat16)
        names = pi0_helpers.NAMES
        weights = {}
        for name, value in build_on_meta(config, "sizes").named_parameters():
            ours = next((ours for ours in names if name.startswith(ours)), "")
            weights[f"model.{names.get(ours, '')}{name.removeprefix(ours)}"] = number.expand(value.shape)
        write_safetensors(path, weights, MappedFile(path, ()))
    return path.stat().st_size


def make_run(run: Path, num_layers: int, width: int) -> int:
    """A released run with random weights; returns the size of its checkpoint in bytes."""
    import torch

    from vla_ros.policies.fill import build_policy
    from vla_ros.policies.modules.vlm_bridge.qwen.processor import train_tokenizer
    from vla_ros.policies.pi.released.config import read_released_config

    (run / "checkpoint_1").mkdir(parents=True)
    (run / "vlm").mkdir()
    (run / "cfg.yaml").write_text(yaml.safe_dump(released_cfg(width)))
    (run / "vlm" / "config.json").write_text(json.dumps(vlm_config(num_layers, width)))
    train_tokenizer(["move to the red block"]).save(str(run / "vlm" / "tokenizer.json"))
    tables = {key: stats(horizon) for key, horizon in (("state", 1), ("action", HORIZON))}
    np.savez(run / "stats.npz", **tables)
    with torch.device("meta"):
        policy = build_policy(read_released_config(run / "cfg.yaml").with_vlm(vlm_config(num_layers, width)))
    torch.manual_seed(0)
    weights = {name: 0.02 * torch.randn(x.shape).to(torch.bfloat16) for name, x in policy.named_parameters()}
    torch.save(weights, run / "checkpoint_1" / "model.pt")
    return (run / "checkpoint_1" / "model.pt").stat().st_size


def stats(horizon: int) -> dict[str, np.ndarray]:
    """Statistics of values from -1 to 1."""
    ones = np.ones((horizon, NUM_JOINTS), np.float32)
    return {"mean_": 0 * ones, "std_": ones / 2, "q01": -ones, "q99": ones}


def released_cfg(width: int) -> dict[str, Any]:
    """The cfg.yaml of a Qwen policy."""
    processor = {"_target_": f"{TARGETS}.modules.vlm_bridge.qwen.processor.QwenProcessor", "max_length": 160}
    policy = {
        "_target_": f"{TARGETS}.pi.policy.PiPolicy",
        "transforms": [processor],
        "model_id": "vlm",
        "vlm_type": "Qwen3VLForConditionalGeneration",
        "action_horizon": HORIZON,
        "action_dim": NUM_JOINTS,
        "state_dim": NUM_JOINTS,
        "state_history": 1,
        "use_state": True,
        "num_obs_registers": 4,
        "expert_only_use_register": True,
        "causal_mask_obs_register": True,
        "zero_pos_id_for_obs_register": True,
        "suffix_add_pos_emb": True,
        "num_noise_per_sample": 1,
        "time_dist_alpha": 1.0,
        "time_dist_beta": 1.5,
        "detach_encoder_output": False,
        "ce_loss_weight": 0.1,
        "obs_register_init_gain": 0.02,
        "suffix_pos_emb_init_gain": 0.02,
        "action_expert_cfg": {
            "hidden_size": width // 2,
            "intermediate_size": width,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "head_dim": width // 16,
            "num_hidden_layers": 2,
            "cross_attention_every": 2,
            "only_attend_to_final_layer": True,
            "qk_norm": "layernorm",
            "rotary_self_attn": True,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "attention_bias": True,
        },
    }
    return {"policy": policy}


def vlm_config(num_layers: int, width: int) -> dict[str, Any]:
    """A Qwen3-VL whose text tower holds nearly all weights."""
    return {
        "image_token_id": 4,
        "video_token_id": 0,
        "vision_start_token_id": 2,
        "vision_end_token_id": 3,
        "tie_word_embeddings": True,
        "text_config": {
            "vocab_size": 16384,
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "head_dim": width // 8,
            "max_position_embeddings": 512,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_section": [width // 32, width // 64, width // 64],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": width,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [],
        },
    }


if __name__ == "__main__":
    sys.exit(main())
