"""Candidates: Triton kernels for where a profile on a GPU showed that the library leaves 15 % or more.

None is part of the package: they have run in Triton's interpreter only, where they equal the plain forms.
``measure.py`` runs them on a GPU, beside the plain forms in one run; what wins there moves into the package.
"""

from __future__ import annotations

import torch
from torch import Tensor

early_start = False
"""Whether a kernel may begin while the one before it ends, and fetch its weights meanwhile (programmatic dependent
launch)."""


def launch_options() -> dict[str, bool]:
    """What a launch needs for that."""
    return {"launch_pdl": True} if early_start else {}


def may_run(x: Tensor) -> bool:
    """Whether kernels take ``x``: half precision on a GPU, and no gradient wanted."""
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and not torch.is_grad_enabled()
