"""What training reads, each with a small good sample: a part of ``fuzz_readers.py``."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from zlib import crc32

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "unit"))

import numpy as np
import torch
from fuzz_samples import ROOT, Make, Sample, make_sample
from policy_helpers import pi_config, policy_processor
from safetensors.torch import save_file

from vla_ros.policies.fill import build_policy
from vla_ros.policies.importing.backbone import find_backbone
from vla_ros.policies.pi.processor import PiProcessor
from vla_ros.training.backbone import policy_on
from vla_ros.training.cache import ABOUT, DATA, PictureCache, _Entry
from vla_ros.training.checkpoints import (
    CheckpointInfo,
    CheckpointWriter,
    check_files,
    check_stored,
    read_info,
    read_stored,
    read_tensors,
)
from vla_ros.training.config import load_train_config
from vla_ros.training.metrics import METRICS, StepMetrics
from vla_ros.training.processes import joined
from vla_ros.training.versions import VERSIONS, record_versions

OVERRIDES = (
    "optimizer.num_steps=100 processor.buckets=[48,72] lesson.name=tabletop +seed=3 data.chunk_dt_s=0.1 device=cpu"
)


def _overrides(folder: Path) -> Sample:
    def read(path: Path) -> None:
        words = path.read_bytes().decode(errors="replace").split(" ")
        load_train_config(ROOT / "config", "tiny_touch", words)

    return make_sample(folder, "overrides", read, OVERRIDES.replace("+seed", "seed").encode())


def _train_config(folder: Path) -> Sample:
    """A file of one's own, with groups that are packaged and keys that aren't."""
    text = (ROOT / "config" / "train" / "so101.yaml").read_text().replace("- base", "- /train/base")
    return make_sample(folder, "mine.yaml", lambda path: load_train_config(ROOT / "config", str(path)), text.encode())


def _backbone(name: str, folder: Path) -> Sample:
    """What is published of a backbone, under an expert of the configuration that it says."""
    start = folder / "backbone"
    start.mkdir(parents=True)
    torch.manual_seed(0)
    weights = dict(build_policy(pi_config()).vlm_bridge.causal_model.named_parameters())
    save_file({key: value.detach() for key, value in weights.items()}, start / "model.safetensors")
    document = {"architectures": [pi_config().vlm_type], "model_type": "qwen3_vl", **pi_config().vlm_config}
    (start / "config.json").write_text(json.dumps(document))
    (start / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors"}}')
    policy_processor(pi_config()).tokenizer.save(str(start / "tokenizer.json"))

    def read(_: Path) -> None:
        if (found := find_backbone(str(start))) is not None:
            config = PiProcessor.on_backbone(pi_config(), found.kind, found.config)
            PiProcessor.settings_on(config, [(24, 32)], 1, found.tokenizer(), None)
            policy_on(config, found)

    return make_sample(folder, f"backbone/{name}", read)


def _metrics(folder: Path) -> Sample:
    lines = "".join(f'{{"step": {step}, "loss": 0.5, "lr": {{"base": 1e-4}}}}\n' for step in range(1, 9))
    return make_sample(folder, METRICS, lambda path: StepMetrics(path.parent, 5).close(), lines.encode())


def _versions(folder: Path) -> Sample:
    text = b'{"python": "3.12.3", "vla_ros": "1.0.0", "torch": "2.9.0"}'
    return make_sample(folder, VERSIONS, lambda path: record_versions(path.parent), text)


def _checkpoint(name: str, is_checked: bool, folder: Path) -> Sample:
    """As a run goes on from it; whoever writes one can write its checksums, too."""
    tensors = {f"{kind}.a": torch.ones(4, 3) for kind in ("weights", "average", "optimizer.exp_avg")}
    folder.mkdir(parents=True, exist_ok=True)
    with joined() as processes, CheckpointWriter(folder, 1, processes) as writer:
        writer.save(CheckpointInfo(8, 1.5, 64, {"seed": 0, "bags": ["/bags"], "lr.base": 1e-4}), tensors)

    def read(path: Path) -> None:
        if is_checked:
            check_files(path.parent, read_info(path.parent))
        check_stored(read_stored(path.parent), tensors)
        read_tensors(path.parent, tensors, alone=True)

    (written,) = (folder / "step_8").glob(name)
    return make_sample(folder, str(written.relative_to(folder)), read)


def _cache(folder: Path) -> Sample:
    entry = _Entry("made up", folder, {"format": 1}, np.arange(3), (3, 1, 2, 2, 3))
    about = {"key": entry.key, "lost": [1], "problems": ["no picture"], "checksums": [crc32(bytes(12))] * 3}

    def read(_: Path) -> list[str]:
        lines: list[str] = []
        PictureCache(folder, lines.append)._find(entry, lines.append)
        return lines

    made = make_sample(folder, ABOUT, read, json.dumps(about).encode())
    (folder / DATA).write_bytes(bytes(entry.num_bytes))
    return Sample(folder, made.path, lambda: read(made.path))


TRAINING: dict[str, Make] = {
    "cache": _cache,
    "overrides": _overrides,
    "train config": _train_config,
    "backbone's config.json": partial(_backbone, "config.json"),
    "backbone's index": partial(_backbone, "model.safetensors.index.json"),
    "backbone's weights": partial(_backbone, "model.safetensors"),
    "checkpoint.json": partial(_checkpoint, "checkpoint.json", True),
    "checkpoint's tensors": partial(_checkpoint, "*.safetensors", True),
    "checkpoint's tensors, unchecked": partial(_checkpoint, "*.safetensors", False),
    "metrics": _metrics,
    "versions": _versions,
}
