"""The host side of an ACT policy: pictures as they are. It reads no instruction. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_ros.policies.act.config import ActConfig
from vla_ros.policies.config import DataConfig
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.transforms.normalize import FieldStats
from vla_ros.transforms.sample import PolicyRequest, RequestView, check_tensor, read_guidance, read_stamp

IMAGE = "image."


@dataclass(frozen=True)
class ActRequest(PolicyRequest):
    """``images`` uint8 [height, width, 3], each camera's of its own size; ``state`` float32 [state_history, state_dim]
    normalised."""

    images: tuple[np.ndarray, ...]
    state: np.ndarray

    def view(self) -> RequestView:
        images = tuple(image.reshape(-1, 3) for image in self.images)
        grid = tuple((1, *image.shape[:2]) for image in self.images)
        return RequestView(images, grid, self.state, np.zeros(0, np.float32), np.zeros(0, np.int64))

    def to_tensors(self) -> dict[str, np.ndarray]:
        images = {f"{IMAGE}{i}": np.ascontiguousarray(image) for i, image in enumerate(self.images)}
        return images | super().to_tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> ActRequest:
        names = [f"{IMAGE}{i}" for i in range(sum(name.startswith(IMAGE) for name in tensors))]
        missing = [name for name in (*names, "state") if name not in tensors]
        if missing or not names:
            raise ValueError(f"request: tensor '{(missing or [IMAGE + '0'])[0]}' is missing; expected state and images")
        for name in names:
            check_tensor(name, tensors[name], ("uint8",), 3)
        check_tensor("state", tensors["state"], ("float32",), 2)
        images = tuple(tensors[name] for name in names)
        return cls(read_stamp(metadata), images, tensors["state"], **read_guidance(tensors))


class ActProcessor(PolicyProcessor):
    """Raises ValueError where the policy was trained on another number of cameras than ``data`` names."""

    request_type = ActRequest
    why_not_guidable = "it makes no chunk of noise that could be drawn towards the one before"

    def __init__(self, config: ActConfig, data: DataConfig, stats: Mapping[str, FieldStats], digest: str = "") -> None:
        super().__init__(config, data, stats, digest)
        if not len(self.camera_names) == len(data.slots) == len(config.cameras):
            got = f"data has {len(self.camera_names)} cameras, policy.cameras {len(config.cameras)}"
            raise ValueError(f"policy.yaml: {got}; make them as many: ACT needs each camera it was trained on")

    @classmethod
    def config_for(cls, config: ActConfig, sizes: Sequence[tuple[int, int]]) -> ActConfig:
        """Further cameras are normalised as the last known one."""
        known = (*config.cameras, *[config.cameras[-1]] * len(sizes))
        return replace(config, cameras=tuple(replace(k, size=s) for k, s in zip(known, sizes, strict=False)))

    @property
    def camera_size(self) -> tuple[int, int]:
        sizes = set(self.camera_sizes.values())
        return next(iter(sizes)) if len(sizes) == 1 else (0, 0)

    @property
    def camera_sizes(self) -> Mapping[str, tuple[int, int]]:
        sizes = ((camera.size[0], camera.size[1]) for camera in self.config.cameras)
        return dict(zip(self.camera_names, sizes, strict=True))

    def make_request(
        self, stamp_ns: int, images: Sequence[np.ndarray], task: str, state: np.ndarray, noise: np.ndarray
    ) -> ActRequest:
        for name, image, camera in zip(self.camera_names, images, self.config.cameras, strict=True):
            if image.shape != (*camera.size, 3) or image.dtype != np.uint8:
                got = f"camera '{name}': image is {image.dtype} {list(image.shape)}"
                height, width = camera.size
                fix = f"set the camera to {height}x{width}: an ACT policy resizes nothing"
                raise ValueError(f"{got}; expected uint8 {[height, width, 3]}, what it was trained on: {fix}")
        return ActRequest(stamp_ns, tuple(images), state)
