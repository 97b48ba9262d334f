"""A time limit for every test: one that hangs fails by its name, and the others still run."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LIMITS_S = {"unit": 300, "ros": 600}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.pluginmanager.hasplugin("timeout"):
        return
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        # A limit of a test's own comes first.
        item.add_marker(pytest.mark.timeout(LIMITS_S[folder]))
