"""What a worker does, in whatever process and on whatever machine: one bag through the policies of a plan."""

from __future__ import annotations

from pathlib import Path

import torch

from vla_ros.policies.directory import find_device
from vla_ros.replay.baseline.provenance import bag_digest, machine_name
from vla_ros.replay.fleet.plan import Plan, PlannedPolicy, installed_release
from vla_ros.replay.fleet.result import Result, Source, encode
from vla_ros.replay.fleet.task import Done, Task
from vla_ros.replay.offline import ReplayPolicy
from vla_ros.replay.run import UnusableBag, replay_bag
from vla_ros.replay.session import load_replay_policy


class BagWorker:
    """Has the policies of ``plan`` in memory."""

    def __init__(self, plan: Plan) -> None:
        """Raises ValueError where they, the robot file, or the release, are not what was planned with."""
        if (release := installed_release()) != plan.release:
            raise ValueError(f"vla_ros {release} is installed here; expected {plan.release}, which planned the replay")
        torch.set_num_threads(plan.num_threads)
        device = find_device(plan.device, "--device")
        self._plan, self._robot, self._root = plan, plan.robot(), Path(plan.folder)
        self._machine = machine_name(str(device), plan.num_threads)
        self._policies = [self._load(policy, device) for policy in plan.policies]

    def _load(self, planned: PlannedPolicy, device: torch.device) -> ReplayPolicy:
        folder = self._root / planned.folder
        policy = load_replay_policy(planned.name, folder, device)
        if policy.processor.digest != planned.digest:
            got, expected = policy.processor.digest[:12], planned.digest[:12]
            raise ValueError(f"policy {folder}: its digest is {got}; expected {expected}: it changed meanwhile")
        return policy

    def replay(self, task: Task) -> Done:
        """Raises ValueError as ``replay_bag`` does; a bag of which nothing can be used is a result, too."""
        bag, source = task.bag, Source.of(task.bag)
        digest = bag_digest(bag) if source.files else ""
        results, is_refused = [], False
        for index in task.policies:
            policy, replay, refusal = self._policies[index], None, ""
            try:
                replay = replay_bag(Path(bag), self._robot, policy, self._plan.settings)
            except UnusableBag as error:
                refusal, is_refused = str(error), True
            key = self._plan.keys[index]
            result = Result(key, bag, source, digest, self._machine, policy.drift, replay, refusal)
            results.append(encode(result))
        return Done(task, tuple(results), is_refused)
