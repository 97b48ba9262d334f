"""The measurements for a GPU, run on a CPU with tiny sizes: the script is ready when a GPU is at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

PARTS = ("tiny", "published", "compiled", "attention")
ROOT = Path(__file__).resolve().parents[2]


def test_the_gpu_measurements_run_without_a_gpu(tmp_path: Path) -> None:
    script, figures = ROOT / "benchmarks/gpu/measure.py", tmp_path / "figures.json"
    command = [sys.executable, str(script), "--fake", "--out", str(figures), "--parts", *PARTS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    checks = json.loads(figures.read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"environment", "pi-qwen", "pi-paligemma", "memory after cleanup", "pi-qwen, compiled"} <= checks.keys()
    assert all(check["ok"] for check in checks.values())
    assert checks["pi-qwen"]["stages_ms"].keys() >= {"copy_in", "prefix", "suffix", "copy_out"}
