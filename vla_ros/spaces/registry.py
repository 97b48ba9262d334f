"""The components that a declaration may name. A name is looked up here and never imported from a file."""

from __future__ import annotations

from vla_ros.spaces.component import Component
from vla_ros.spaces.constant import Constant
from vla_ros.spaces.joints import Joint, Joints

COMPONENTS: dict[str, type[Component]] = {"joint": Joint, "joints": Joints, "constant": Constant}
