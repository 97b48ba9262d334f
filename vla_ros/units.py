"""Unit constants. Inside the package everything is SI; times that are compared or stored are integer nanoseconds."""

from __future__ import annotations

import math

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
MS_PER_NS = 1e-6
RAD_PER_DEG = math.pi / 180.0
SI_PER_UNIT = {"rad": 1.0, "deg": RAD_PER_DEG, "m": 1.0, "mm": 1e-3}
"""What one of each unit that a joint's position may be declared in is in rad or m."""
