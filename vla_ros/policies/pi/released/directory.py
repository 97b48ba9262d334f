"""A released run written as a policy directory, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from vla_ros.policies.importing.directory import ImportReport, check_free, write_policy
from vla_ros.policies.importing.settings import Imported
from vla_ros.policies.pi.processor import PiProcessor
from vla_ros.policies.pi.released.config import read_released_config
from vla_ros.policies.pi.released.settings import RobotSettings, data_config, processor_config
from vla_ros.policies.pi.released.source import find_image_config, find_run, find_stats, find_tokenizer, find_vlm_config
from vla_ros.policies.pi.released.statistics import read_released_stats
from vla_ros.policies.pi.released.weights import fill_policy
from vla_ros.policies.processor import stats_shapes
from vla_ros.transforms.tokenizer import read_tokenizer


def import_run(
    source: str, out: Path, robot: RobotSettings, vlm: str | None = None, stats: str | None = None
) -> ImportReport:
    """Make the policy directory ``out`` of a released run.

    ``source`` and ``vlm`` as ``released.source`` takes them, ``stats`` an ``.npz`` where the run has none. Nothing is
    left behind where it fails. Raises ValueError, in one line, for an ``out`` that is in use, whatever ``fill_policy``
    refuses, joints that are not the policy's, and statistics or a tokenizer that don't fit.
    """
    check_free(out)
    run = find_run(source)
    released = read_released_config(run.cfg)
    vlm_config = find_vlm_config(run, released.model_id, vlm)
    policy = fill_policy(run, released, vlm_config, dtype=None)
    config = policy.config
    tokenizer = find_tokenizer(vlm_config, released.model_id)
    processor = PiProcessor(
        config=config,
        data=data_config(config, robot),
        settings=processor_config(config, released, find_image_config(vlm_config), robot.camera_size),
        tokenizer=read_tokenizer(tokenizer, str(tokenizer)),
        stats=read_released_stats(find_stats(run, stats), stats_shapes(config)),
    )
    return write_policy(out, run.model, Imported(policy.policy, processor, policy.memory, policy.head))
