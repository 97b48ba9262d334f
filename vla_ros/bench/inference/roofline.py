"""What the device could do at best: the time to read the weights once, or to do the arithmetic, whichever is longer.

The roofline model: Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

from vla_ros.audit.counting import Cost

# Peak memory bandwidth in byte/s and dense bfloat16 rate in FLOP/s, sums in float32, of NVIDIA's data sheets; the first
# match decides. The name of an Orin, a Thor or a laptop's GPU doesn't say which of several it is: they are measured.
DATA_SHEETS = (
    ("H200", 4.8e12, 989e12),
    ("H100 PCIe", 2.0e12, 756e12),
    ("H100", 3.35e12, 989e12),
    ("A100-PCIE-40GB", 1.555e12, 312e12),
    ("A100-SXM4-40GB", 1.555e12, 312e12),
    ("A100", 2.039e12, 312e12),
    ("L40S", 864e9, 362.05e12),
    ("RTX 5090", 1.792e12, 209.5e12),
    ("RTX 4090", 1.008e12, 165.2e12),
)
LARGE_BYTES, SMALL_BYTES = 256 << 20, 1 << 20
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
MEASURED_S = 0.1


@dataclass(frozen=True)
class Peaks:
    """``source`` says where the numbers come from."""

    bytes_per_s: float
    flops_per_s: float
    source: str

    def bound_ms(self, cost: Cost) -> float:
        """No device with these peaks is faster."""
        return 1e3 * max(cost.weight_bytes / self.bytes_per_s, cost.flops / self.flops_per_s)


def find_peaks(device: torch.device, dtype: torch.dtype, num_bytes: int) -> Peaks:
    """Those of the data sheet where the device is known and the type is bfloat16, else measured now.

    Bandwidth is measured over about ``num_bytes``, so that weights which fit into a cache are bounded by the cache's.
    """
    if device.type == "cuda" and dtype == torch.bfloat16:
        known = known_peaks(torch.cuda.get_device_name(device))
        if known is not None:
            return known
    size = MATRIX_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    buffer = torch.zeros(min(max(num_bytes, SMALL_BYTES), LARGE_BYTES) // 4, dtype=torch.float32, device=device)
    return Peaks(
        bytes_per_s=buffer.nbytes / _shortest_s(buffer.sum),
        flops_per_s=2 * size**3 / _shortest_s(lambda: left @ right),
        source="measured",
    )


def known_peaks(name: str) -> Peaks | None:
    """Those of the data sheet of a GPU called ``name`` by its driver; None where that says too little."""
    if "laptop" in name.lower():
        return None
    for part, bytes_per_s, flops_per_s in DATA_SHEETS:
        if part.lower() in name.lower():
            return Peaks(bytes_per_s, flops_per_s, f"data sheet of {part}")
    return None


def _shortest_s(run: Callable[[], object]) -> float:
    """Of several times, each long enough for the clock; on a GPU it is waited for."""
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=MEASURED_S).times)
