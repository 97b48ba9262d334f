"""Bags through the whole node, offline. ``assert_matches`` is a golden replay as one line of a test."""

from __future__ import annotations

from pathlib import Path


def assert_matches(bag: str | Path, policy: str | Path, baseline: str | Path, robot: str | Path = "tabletop") -> None:
    """Replay ``bag`` with ``policy`` as ``baseline`` was made; raises AssertionError, with what changed, where it
    differs.

    ``policy`` and ``robot`` are paths or names of packaged ones. Raises ValueError for input that cannot be used.
    """
    # Here, so that the package can be looked at without torch.
    from vla_ros.recordings.description import load_robot_of
    from vla_ros.replay.baseline.record import read_baseline
    from vla_ros.replay.session import SessionConfig, replay_session
    from vla_ros.replay.settings import from_stored
    from vla_ros.share import policy_dir, robot_file

    expected = read_baseline(Path(baseline))
    settings = from_stored(expected.origin.settings, f"baseline {baseline}")
    config = SessionConfig(
        bags=(Path(bag),),
        policies=(policy_dir(str(policy)),),
        robot=load_robot_of(robot_file(str(robot)), (Path(bag),), settings.namespace),
        settings=settings,
    )
    verdict, _ = replay_session(config).judge(expected)
    assert verdict.word == "pass", "\n".join(verdict.reasons)
