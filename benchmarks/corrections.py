"""What corrections are worth: somebody has knocked against the front camera, the demo's policy misses, a human (the
scripted expert) takes over where it fails, and ``vla_ros train`` learns from that. The same unseen scenes before and
after, paired, in simulated time. Exits 1 where the 95 % interval of the difference (bootstrap over scenes) is not above
0.

    python benchmarks/corrections.py [--takeovers 20] [--episodes 200] [--json FILE]

The bags have the messages of the live nodes. What is in ``--out`` already is not done again, so that a measurement can
be continued.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from delays import compare, interval_of
from rollouts import JOINT_STATE_STEPS, NS_PER_S, Episode, Rollout, run_rollouts, use_one_core

LATENCY_MS = 60.0
FIRST_SEED = 100_000  # of the scenes in which there is somebody to take over
LIMIT_S = 4.0  # the packaged policy has done it after 2
PATIENCE_S = 3.0
TELEOP_S = 4.0  # at most 2 to get there, and the 2 of a chunk to stay
TELEOP_STEPS = 4
SETTINGS = ("policy", "camera_off_m", "takeovers", "demonstrations")  # of what --out holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--takeovers", type=int, default=20, metavar="N", help="corrections to learn from (default 20)")
    parser.add_argument("--episodes", type=int, default=200, metavar="N", help="scenes before and after (default 200)")
    parser.add_argument("--camera-off-m", type=float, default=0.03, metavar="M", help="the front camera (default 0.03)")
    parser.add_argument("--demonstrations", type=int, default=200, metavar="N", help="beside them (default 200)")
    parser.add_argument("--policy", default="tiny_touch", metavar="DIR", help="policy directory (default tiny_touch)")
    parser.add_argument("--name", default="corrected", metavar="NAME", help="of what is trained (default corrected)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="scenes at once (default 2)")
    parser.add_argument("--out", default="outputs/corrections", metavar="DIR", help="for all of it")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="for the training; give --name, too")
    args = parser.parse_args()
    out, settings = Path(args.out), {name: getattr(args, name) for name in SETTINGS}
    out.mkdir(parents=True, exist_ok=True)
    if known := json_lines(file := out / "settings.jsonl"):
        if known != [settings]:
            parser.error(f"{out} is of {known[0]}; give another --out")
    file.write_text(json.dumps(settings) + "\n")
    bags = out / "corrections"
    takeovers = take_over(args, bags)
    corrected = train(args, demonstrate(args, out / "demonstrations"), bags, out / args.name)
    before, after = successes(args, corrected)
    row = compare(after, before)
    print(f"front camera {args.camera_off_m:g} m to the side, {args.episodes} scenes, {len(takeovers)} takeovers")
    print(f"  before {100 * before.mean():.1f} %, after {row['success']:.1f} %: {interval_of(row)} points")
    if args.json:
        figures = {"before": float(100 * before.mean()), "takeovers": len(takeovers), **vars(args), **row}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if row["low"] > 0 else 1


def rollout_of(args: argparse.Namespace, policy: str, seed: int) -> Rollout:
    return Rollout(policy, "rtc", LATENCY_MS, seed, camera_off_m=args.camera_off_m, limit_s=LIMIT_S)


def successes(args: argparse.Namespace, corrected: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which scenes succeeded before and after, [episodes] each; each policy's file has a line for each scene.

    The two take turns, so that what a broken-off run leaves can be compared."""
    files = {args.policy: corrected.with_name("before.jsonl"), str(corrected): corrected.with_suffix(".jsonl")}
    known = {policy: len(json_lines(file)) for policy, file in files.items()}
    rollouts = [
        rollout_of(args, policy, seed)
        for seed in range(args.episodes)
        for policy, file in files.items()
        if seed >= known[policy]
    ]
    for done, outcome in enumerate(run_rollouts(rollouts, args.workers) if rollouts else (), 1):
        with files[outcome.rollout.policy].open("a") as lines:
            print(json.dumps({"status": outcome.status, "elapsed_s": outcome.elapsed_s}), file=lines)
        if done % 20 == 0:
            print(f"{done} of {len(rollouts)} episodes", flush=True)
    results = (json_lines(file)[: args.episodes] for file in files.values())
    before, after = (np.array([line["status"] == "success" for line in lines], float) for lines in results)
    return before, after


def json_lines(file: Path) -> list[dict[str, Any]]:
    """Those that are there."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def demonstrate(args: argparse.Namespace, folder: Path) -> Path:
    """Some of what the policy was taught with, the camera in its place."""
    from vla_ros.robot import load_robot
    from vla_ros.share import robot_file
    from vla_ros.sim.demonstrations import DemonstrationConfig, write_demonstrations

    config = DemonstrationConfig(args.demonstrations, tail_s=2.08)
    list(write_demonstrations(folder, load_robot(robot_file("tabletop")), config, args.workers))
    return folder


def train(args: argparse.Namespace, demonstrations: Path, corrections: Path, policy: Path) -> Path:
    """What a user would do."""
    if not (policy / "policy.yaml").exists():
        command = ["train", "--robot", "tabletop", "--bags", demonstrations, corrections, "--out", policy]
        settings = ["optimizer.num_steps=300", "optimizer.batch_size=32"]
        settings += ["device=cpu", "num_threads=1", *args.settings]
        command += ["--start-from", args.policy, *settings]
        subprocess.run([sys.executable, "-m", "vla_ros.cli", *map(str, command)], check=True)
    return policy


@dataclass(frozen=True)
class Takeover:
    """A human took over at ``time_s`` after the episode's start, where the policy did not succeed by itself."""

    seed: int
    time_s: float | None


def take_over(args: argparse.Namespace, folder: Path) -> Sequence[Takeover]:
    """The bags of ``args.takeovers`` corrections, each called by its scene's seed."""
    folder.mkdir(exist_ok=True)
    log = folder.with_suffix(".json")
    if log.exists():
        return [Takeover(**each) for each in json.loads(log.read_text())]
    shutil.rmtree(folder)
    folder.mkdir()
    found: list[Takeover] = []
    seeds = (FIRST_SEED + number for number in range(20 * args.takeovers))
    # spawn: as in run_rollouts
    with multiprocessing.get_context("spawn").Pool(args.workers, initializer=use_one_core) as pool:
        for takeover in pool.imap(partial(_correct, args, folder), seeds):
            if takeover.time_s is not None:
                found.append(takeover)
                print(f"scene {takeover.seed}: taken over after {takeover.time_s:.1f} s", flush=True)
            if len(found) == args.takeovers:
                break
    log.write_text(json.dumps([vars(each) for each in found], indent=1) + "\n")
    for path in set(folder.iterdir()) - {folder / str(each.seed) for each in found}:
        shutil.rmtree(path)  # of scenes beyond the last one
    return found


def _correct(args: argparse.Namespace, folder: Path, seed: int) -> Takeover:
    from vla_ros.bags.write import BagWriter

    path = folder / f".{seed}" / str(seed)
    shutil.rmtree(path.parent, ignore_errors=True)
    with BagWriter(path, compress=True) as bag:
        episode = Corrected(rollout_of(args, args.policy, seed), bag)
        episode.run()
    if episode.taken_over_ns is None:
        shutil.rmtree(path.parent)
        return Takeover(seed, None)
    path.rename(folder / str(seed))
    path.parent.rmdir()
    return Takeover(seed, (episode.taken_over_ns - episode.start_ns) / NS_PER_S)


class Corrected(Episode):
    """An episode recorded as the live nodes' would be: where the policy fails, the expert takes over by messages."""

    def __init__(self, rollout: Rollout, bag: Any) -> None:
        from vla_ros.sim.demonstrations import RobotMessages

        super().__init__(rollout)
        self._recorder = RobotMessages(bag, self.robot, is_driven=True)
        self._expert: Any = None
        self.taken_over_ns: int | None = None

    def begin(self) -> None:
        from vla_ros.sim.scene import TRAIN_PHRASES

        simulated = self.simulated
        # As demonstrations have them: those of the scenes that are counted stay unheard.
        scene = replace(simulated.scene, phrase=TRAIN_PHRASES[self.rollout.seed % len(TRAIN_PHRASES)])
        simulated.scene, simulated.instruction = scene, scene.instruction
        self._recorder.scene(scene, self.start_ns)

    def is_over(self, now_ns: int) -> bool:
        if self.taken_over_ns is None:
            return self.simulated.episode.status == "success"
        if now_ns - self.taken_over_ns < TELEOP_S * NS_PER_S:
            return False
        scene, world = self.simulated.scene, self.simulated.world
        away_m = np.linalg.norm(world.tip_position - world.block_top(scene.target_color))
        if away_m > 0.025:
            raise RuntimeError(f"scene {scene.seed}: the expert ended {away_m:.3f} m from the block")
        return True

    def sense(self, now_ns: int) -> None:
        simulated, world = self.simulated, self.simulated.world
        elapsed_s = (now_ns - self.start_ns) / NS_PER_S
        if self.taken_over_ns is None and (simulated.episode.status == "wrong_block" or elapsed_s >= PATIENCE_S):
            from vla_ros.sim.expert import Expert

            self.taken_over_ns = now_ns
            self._expert = Expert(replace(simulated.scene, start_joint_positions=self._commanded))
        super().sense(now_ns)
        if simulated.num_steps % JOINT_STATE_STEPS == 0:
            self._recorder.joint_state(world.joint_positions, world.joint_velocities, now_ns)
        if self._expert is not None and simulated.num_steps % TELEOP_STEPS == 0:
            self._lead(now_ns)

    def look(self, camera: str, now_ns: int) -> np.ndarray:
        pixels = super().look(camera, now_ns)
        self._recorder.image(camera, pixels, now_ns)
        return pixels

    def ticked(self, now_ns: int, tick: Any) -> None:
        from vla_ros.messages.trajectories import Trajectory

        super().ticked(now_ns, tick)
        if tick.ramp is not None:
            self._commanded = tick.command.positions
            times_s = self.period_ns / NS_PER_S + tick.ramp.times_s
            self._recorder.mode(tick.mode, now_ns)
            self._recorder.command(Trajectory(0, times_s, tick.ramp.positions, tick.ramp.velocities), now_ns)

    def _lead(self, now_ns: int) -> None:
        from vla_ros.runtime.teleop import TeleopTrajectory

        said = self._expert.trajectory(TELEOP_STEPS * self.simulated.world.control_dt_s)
        times_ns = tuple(now_ns + round(time_s * NS_PER_S) for time_s in said.times_s)
        if refusal := self.loop.offer_teleop(TeleopTrajectory(times_ns, said.positions), now_ns):
            raise RuntimeError(f"scene {self.rollout.seed}: {refusal}")


if __name__ == "__main__":
    sys.exit(main())
