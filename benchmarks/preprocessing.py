"""Times host preprocessing on one core: two 640x480 frames and a task to the input of a policy, beside Pillow's
resizing of the same frames alone. Exits 1 above ``--max-p50-ms``.

    python benchmarks/preprocessing.py [--policy mid] [--repeats 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vla_ros.bench.inference.paired import measure_interleaved, paired_ratio
from vla_ros.bench.inference.subject import sizes_of
from vla_ros.policies.families import family_of
from vla_ros.policies.pi.trials import CAMERA_SIZE
from vla_ros.policies.trials import NUM_CAMERAS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="mid", metavar="NAME", help="a configuration by name (default mid)")
    parser.add_argument("--repeats", type=int, default=200, metavar="N", help="how many times (default 200)")
    parser.add_argument("--max-p50-ms", type=float, default=8.0, metavar="MS", help="exit 1 above it (default 8)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sizes = sizes_of(args.policy)
    preprocess = family_of(sizes.config).make_trials().make_preprocessing(sizes.config, NUM_CAMERAS, sizes.image_size)
    if preprocess is None:
        parser.error(f"no processor can be made up for {args.policy}")
    height, width = sizes.image_size
    frame = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*CAMERA_SIZE, 3), np.uint8))

    def resize_only() -> None:
        for _ in range(NUM_CAMERAS):
            frame.resize((width, height), Image.Resampling.BICUBIC)

    times_ms = measure_interleaved({"all": preprocess, "resize": resize_only}, args.repeats, torch.device("cpu"))
    figures = {
        "p50_ms": float(np.median(times_ms["all"])),
        "pillow_p50_ms": float(np.median(times_ms["resize"])),
        "ratio": paired_ratio(times_ms["all"], times_ms["resize"]),
        "repeats": args.repeats,
    }
    print(
        f"preprocessing of {NUM_CAMERAS} frames for {args.policy} on one core: p50 {figures['p50_ms']:.2f} ms, "
        f"{figures['ratio']:.2f} times Pillow's bicubic alone ({figures['pillow_p50_ms']:.2f} ms)"
    )
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if figures["p50_ms"] <= args.max_p50_ms else 1


if __name__ == "__main__":
    sys.exit(main())
