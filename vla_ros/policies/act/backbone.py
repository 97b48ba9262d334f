"""The picture backbone of ACT: a ResNet up to its last group, with the module names of released checkpoints.

He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385; a block of three convolutions has its
stride in the middle one. Batch norms keep the statistics they were trained with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vla_ros.policies.act.config import BACKBONES

EPSILON = 1e-5
NUM_MIDDLE_TO_OUT = 4  # how much wider a block of three convolutions ends than it is inside


class FrozenBatchNorm(nn.Module):
    """``(x - running_mean) / sqrt(running_var + eps) * weight + bias``, none of which is learned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, start in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_parameter(name, nn.Parameter(torch.full((width,), start), requires_grad=False))

    @property
    def scale(self) -> Float[Tensor, "width"]:
        return self.weight * (self.running_var + EPSILON).rsqrt()

    @property
    def shift(self) -> Float[Tensor, "width"]:
        return self.bias - self.running_mean * self.scale


class NormedConvolution:
    """A convolution and the norm after it, each a module of its own; once folded, one convolution with a bias."""

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm) -> None:
        self._conv, self._norm = conv, norm
        self._folded: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def fold(self) -> None:
        weight = self._conv.weight * self._norm.scale[:, None, None, None]
        self._folded = weight.contiguous(memory_format=torch.channels_last), self._norm.shift

    def __call__(self, x: Float[Tensor, "images in_width h w"]) -> Float[Tensor, "images width new_h new_w"]:
        conv = self._conv
        if self._folded is not None:
            return F.conv2d(x, *self._folded, conv.stride, conv.padding, conv.dilation)
        return conv(x) * self._norm.scale[:, None, None] + self._norm.shift[:, None, None]


class Block(nn.Module):
    """Two or three convolutions beside what goes past them."""

    downsample: nn.Sequential | None

    def __init__(self, in_width: int, width: int, is_deep: bool, stride: int, dilation: int, resizes: bool) -> None:
        super().__init__()
        out_width = width * NUM_MIDDLE_TO_OUT if is_deep else width
        kernels = ((1, 1, 1), (3, stride, dilation), (1, 1, 1)) if is_deep else ((3, stride, 1), (3, 1, 1))
        self.steps: list[NormedConvolution] = []
        for i, (kernel, step, spread) in enumerate(kernels, 1):
            widths = in_width if i == 1 else width, out_width if i == len(kernels) else width
            conv, norm = _convolution(*widths, kernel, step, spread), FrozenBatchNorm(widths[1])
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", norm)
            self.steps.append(NormedConvolution(conv, norm))
        self.downsample, self.past = None, None
        if resizes:
            conv, norm = _convolution(in_width, out_width, 1, stride, 1), FrozenBatchNorm(out_width)
            self.downsample, self.past = nn.Sequential(conv, norm), NormedConvolution(conv, norm)

    def forward(self, x: Float[Tensor, "images in_width h w"]) -> Float[Tensor, "images width new_h new_w"]:
        past = x if self.past is None else self.past(x)
        for step in self.steps[:-1]:
            x = F.relu(step(x), inplace=True)
        return F.relu(self.steps[-1](x).add_(past), inplace=True)


class ResNet(nn.Module):
    """``num_channels`` is how many its features have."""

    def __init__(self, name: str, width: int, dilate_last: bool) -> None:
        super().__init__()
        nums, is_deep = BACKBONES[name]
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), FrozenBatchNorm(width)
        self.stem = NormedConvolution(self.conv1, self.bn1)
        in_width = width
        for group, num_blocks in enumerate(nums):
            blocks, last = [], group == len(nums) - 1
            inner = width << group
            for i in range(num_blocks):
                stride = 2 if i == 0 and group > 0 and not (last and dilate_last) else 1
                dilation = 2 if i > 0 and last and dilate_last else 1
                resizes = i == 0 and (group > 0 or is_deep)
                blocks.append(Block(in_width, inner, is_deep, stride, dilation, resizes))
                in_width = inner * (NUM_MIDDLE_TO_OUT if is_deep else 1)
            self.add_module(f"layer{group + 1}", nn.Sequential(*blocks))
        self.num_channels = in_width

    @property
    def groups(self) -> Sequence[nn.Module]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def pack_weights(self) -> None:
        """Fold every norm into its convolution."""
        self.stem.fold()
        for block in (block for group in self.groups for block in group):
            for step in (*block.steps, *([block.past] if block.past is not None else [])):
                step.fold()

    def forward(self, x: Float[Tensor, "images 3 h w"]) -> Float[Tensor, "images channels rows cols"]:
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 3, 2, 1)
        for group in self.groups:
            x = group(x)
        return x


def _convolution(in_width: int, width: int, kernel: int, stride: int, dilation: int) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(in_width, width, kernel, stride, padding, dilation=dilation, bias=False)
