"""What each step of a policy repeats, compiled: torch makes fewer kernels of it, each of several operators."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vla_ros.strict import one_line

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
MAX_SHAPES = 64
"""For which a module is compiled; torch's own bound is eight."""
# In normalised units: kernels of several operators round less often than those operators do.
MAX_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}

Run = TypeVar("Run", bound=Callable[..., Any])


class Compilation:
    """The ``forward`` of some modules, compiled as a whole for each shape that comes. ``trouble`` says in one line why
    nothing is, empty while nothing was in the way."""

    def __init__(self, modules: Sequence[nn.Module], dtype: torch.dtype, backend: str = "inductor") -> None:
        """``dtype`` is that of the weights."""
        self.trouble = ""
        self._modules, self._tolerance = tuple(modules), MAX_DIFFERENCE[dtype]
        torch._dynamo.config.recompile_limit = max(MAX_SHAPES, torch._dynamo.config.recompile_limit)
        for module in self._modules:
            module.forward = torch.compile(module.forward, fullgraph=True, dynamic=False, backend=backend)

    def run_sync(self, compute: Callable[[], Tensor]) -> None:
        """Compile what ``compute`` runs of the modules. Where that fails, or gives other numbers than what is written,
        everything runs as written from now on."""
        if self.trouble:
            return
        expected = as_written(compute)().clone()
        try:
            difference = (compute() - expected).abs().max().item()
            if not difference <= self._tolerance:
                raise RuntimeError(
                    f"it gives actions that are {difference:.3g} off, expected at most {self._tolerance}"
                )
        except Exception as error:  # whatever it was: the same can be run as it is written
            self.trouble = f"steps run as written, not compiled: {one_line(error, 200)}"
            self.undo()

    def undo(self) -> None:
        """The modules as they were; what was compiled for them is gone, and the memory that it had."""
        for module in self._modules:
            module.__dict__.pop("forward", None)
        torch.compiler.reset()


def as_written(run: Run) -> Run:
    """``run``, in which nothing is compiled."""
    return torch.compiler.set_stance("force_eager")(run)  # made here: it holds from when it is made until it is applied


def keep_compiled() -> None:
    """Keep compiled kernels from start to start, where ``TORCHINDUCTOR_CACHE_DIR`` doesn't say it: torch's own place is
    gone after a restart of the machine. Each is found by its code, its shapes and the version of torch."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    os.environ.setdefault(CACHE_VARIABLE, str(Path(home) / "vla_ros" / "compiled"))
