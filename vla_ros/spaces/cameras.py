"""Which of the robot's cameras a policy looks at, and as what (``data.cameras`` in policy.yaml).

::

    cameras:
    - {key: base_0_rgb, camera: front}
    - {key: left_wrist_0_rgb, camera: wrist}
    - {key: right_wrist_0_rgb, missing: mask}
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.spaces.components import check_choice

MISSING = ("refuse", "zeros", "mask")


@dataclass(frozen=True)
class CameraSlot:
    """``key`` is the checkpoint's name of it, ``camera`` the robot file's; ``missing`` is what becomes of a slot
    without a camera: it is refused, it gets a black image (``zeros``), or the policy sees no image there (``mask``)."""

    key: str
    camera: str | None = None
    missing: str = "refuse"

    def __post_init__(self) -> None:
        check_choice(f"camera slot '{self.key}': missing", self.missing, MISSING)

    @property
    def is_seen(self) -> bool:
        """Whether the policy gets an image for it."""
        return self.camera is not None or self.missing == "zeros"


def check_slots(slots: tuple[CameraSlot, ...]) -> None:
    """Raises ValueError for a slot that has no camera and needs one."""
    for slot in slots:
        if slot.camera is None and slot.missing == "refuse":
            expected = "expected a camera of the robot file, or missing: zeros or mask"
            raise ValueError(f"data.cameras: slot '{slot.key}' has no camera; {expected}")
