"""A long run in the demo's world with a random fault every so often: each must be named on /diagnostics and lead where
it should, no command may leave the robot file, no process may end by itself, memory must not grow. Exits 1 otherwise.

    python benchmarks/faults.py [--minutes 60] [--every-s 20] [--seed 0] [--json FILE]

Between the simulated sensors and the policy node stands a relay that can spoil them; everything else is done from
outside, too: by signals, on topics and by services. Every fault of the list comes once, in random order, before any
comes again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from drive_watch import DriveWatch
from fault_client import STOP_TIMEOUT_S, FaultClient
from fault_kinds import Fault, Stage, faults, fill_middleware
from human_faults import human_faults
from resident import ResidentMemory, resident_bytes
from sensor_relay import SensorRelay, relayed_robot_file

from vla_ros.bench.control.judge import LimitUse
from vla_ros.bench.control.rows import Row, limit_rows, rows_json, table
from vla_ros.demo.world import WorldConfig, running_world
from vla_ros.robot import load_robot
from vla_ros.share import robot_file

ROBOT, POLICY = "tabletop", "tiny_touch"
NODES = ("policy_node", "model_node")
SCENE_S = 4.0
"""Before long the arm rests on its block, where a policy that drives on moves nothing."""
WAY_S = (0.5, 1.5)
"""How long the policy has driven in a scene when the fault comes."""
PATIENCE_S, RECOVERY_S, MODE_PATIENCE_S = 20.0, 15.0, 5.0
QUIET_S = 0.5
"""So long after a fault is over the policy must not drive by itself."""
MAX_TRIES, ENGAGE_PATIENCE_S = 3, 60.0
"""Attempts to inject a fault before anything else stops the policy, and how long the policy is engaged again."""
WARM_UP_S, WARM_UP_SHARE = 120.0, 0.25
MAX_GROWTH_PERCENT, MAX_UNHEARD_SHARE = 2.0, 0.01


class _Config(WorldConfig):
    @property
    def nodes(self) -> Mapping[str, Mapping[str, object]]:
        """The policy node presses the stop itself where nobody says that it isn't."""
        nodes = dict(super().nodes)
        return {**nodes, "policy_node": {**nodes["policy_node"], "estop_timeout_s": STOP_TIMEOUT_S}}


@dataclass(frozen=True)
class Outcome:
    """One injected fault: ``named_s`` is None where ``/diagnostics`` did not say what it should, ``said`` is what it
    said last; ``problem`` is empty where the mode went where it should; ``resident_mb`` is what the policy node had in
    memory before."""

    fault: str
    at_s: float
    named_s: float | None
    mode: str
    problem: str
    said: str
    resident_mb: float = 0.0


class Run:
    """The policy drives on and on, but for the faults."""

    def __init__(self, stage: Stage) -> None:
        self.outcomes: list[Outcome] = []
        self.drops: list[str] = []
        self.trouble = ""
        self.memory = ResidentMemory()
        self._stage = stage
        self._world, self._client = stage.world, stage.world.client
        self._seed = 0
        self._began_s = time.monotonic()

    def go_on(self, order: Iterator[tuple[str, Fault]], minutes: float, every_s: float) -> None:
        """Until the time is over, or a process ends or does not do as told: that is ``trouble``."""
        due_s, held_mb = time.monotonic(), {}
        end_s = due_s + 60 * minutes
        try:
            while due_s + every_s <= end_s:
                due_s = max(due_s + every_s, time.monotonic())
                self._drive_until(due_s)
                for node in NODES:
                    pid = self._world.processes.pid(node)
                    num_bytes = resident_bytes(pid)
                    self.memory.add(node, pid, time.monotonic(), num_bytes)
                    held_mb[node] = num_bytes / 1e6
                outcome = replace(self._suffer_and_retry(*next(order)), resident_mb=held_mb["policy_node"])
                self.outcomes.append(outcome)
                print(_line(len(self.outcomes), outcome), flush=True)
        except ValueError as error:
            self.trouble = str(error)
            print(f"  stopped: {error}", flush=True)

    def _drive_until(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            self._new_drive()
            self._watch_drive(min(SCENE_S, until_s - time.monotonic()))

    def _new_drive(self) -> None:
        """A new scene, and the policy drives in it."""
        self._world.new_scene(self._seed)
        self._client.end_recording()
        self._seed += 1
        self._engage()

    def _watch_drive(self, seconds: float) -> bool:
        """Whether the policy drove on for so long; what stopped it by itself is told."""
        if not self._client.wait_until(lambda: self._client.mode != "POLICY", seconds):
            return True
        self._tell_drop(self._world.processes.last_line("policy_node"))
        return False

    def _tell_drop(self, why: str) -> None:
        self.drops.append(why)
        print(f"        by itself: {why}", flush=True)

    def _engage(self) -> None:
        """The policy drives, and a chunk of its own is followed. A busy machine may stop it before: then once more."""
        client, end_s = self._client, time.monotonic() + ENGAGE_PATIENCE_S
        while time.monotonic() < end_s:
            num_before = client.num_chunks
            self._world.engage(RECOVERY_S)
            client.wait_until(lambda: client.mode == "POLICY", MODE_PATIENCE_S)
            client.wait_until(lambda: client.num_chunks > num_before or client.mode != "POLICY", PATIENCE_S)
            if client.num_chunks > num_before and self._watch_drive(0.0):
                return
        raise ValueError(f"the policy did not get to drive in {ENGAGE_PATIENCE_S:g} s: {client.said()}")

    def _suffer_and_retry(self, name: str, fault: Fault) -> Outcome:
        """Where another watchdog was quicker, as it may be on a busy machine, that is told, and it is tried again."""
        for _ in range(MAX_TRIES - 1):
            outcome = self._suffer(name, fault)
            if (outcome.named_s is not None and not outcome.problem) or outcome.mode != "HOLD":
                return outcome
            self._tell_drop(f"while there was '{name}': {outcome.said}")
        return self._suffer(name, fault)

    def _suffer(self, name: str, fault: Fault) -> Outcome:
        """One fault while the policy drives, from its injection until the policy drives again."""
        client = self._client
        while True:
            self._new_drive()
            if self._watch_drive(self._stage.random.uniform(*WAY_S)):
                break
        client.listen_anew()
        start_s = time.monotonic()
        with fault.inject(self._stage):
            is_named = client.wait_until(lambda: all(word in client.said() for word in fault.words), PATIENCE_S)
            named_s = time.monotonic() - start_s if is_named else None
            client.wait_until(lambda: client.mode in fault.modes, PATIENCE_S)
            mode, modes, said = client.mode, client.modes, client.said()
        problem = self._problem(fault, mode, modes)
        self._engage()
        return Outcome(name, start_s - self._began_s, named_s, mode, problem, said)

    def _problem(self, fault: Fault, mode: str, modes: set[str]) -> str:
        """What is wrong with the mode that a fault led to, and with what follows when it is over."""
        expected = " or ".join(fault.modes)
        if mode not in fault.modes:
            return f"mode is {mode}; expected {expected}"
        if fault.modes == ("POLICY",) and modes != {"POLICY"}:
            return f"mode went to {', '.join(sorted(modes - {'POLICY'}))}; expected {expected} all the while"
        if "POLICY" in fault.modes:
            return ""
        if self._client.wait_until(lambda: self._client.mode == "POLICY", QUIET_S):
            return "the policy drove again without being engaged"
        if not self._client.wait_until(lambda: self._client.has_stopped, PATIENCE_S):
            return "the robot did not come to rest"
        return ""


def _arguments(names: Iterable[str]) -> argparse.Namespace:
    """``names`` of faults may be chosen from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="how long (default 60)")
    parser.add_argument("--every-s", type=float, default=20.0, metavar="S", help="from fault to fault (default 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the faults' order (default 0)")
    parser.add_argument("--fault", nargs="+", metavar="NAME", help="these alone, by their names in the table")
    parser.add_argument("--strategy", default="latest", metavar="NAME", help="latest, ensemble or rtc (default latest)")
    parser.add_argument("--out", default="outputs/bench/faults", metavar="DIR", help="for logs (outputs/bench/faults)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    if not 0 < args.every_s <= 60 * args.minutes:
        parser.error(f"--every-s is {args.every_s:g}, --minutes {args.minutes:g}; expected time for one fault at least")
    if unknown := sorted(set(args.fault or ()) - set(names)):
        parser.error(f"--fault has '{unknown[0]}'; expected some of {', '.join(sorted(names))}")
    return args


def main() -> int:
    robot = load_robot(robot_file(ROBOT))
    kinds = faults(robot) | human_faults()
    args = _arguments(kinds)
    kinds = {name: kinds[name] for name in args.fault or kinds}
    log_dir = Path(args.out)
    config = _Config(
        robot=ROBOT,
        policy=POLICY,
        strategy=args.strategy,
        inference_delay_ms=0.0,
        seed=0,
        log_dir=log_dir,
        policy_robot=str(relayed_robot_file(robot_file(ROBOT), log_dir)),
    )
    chance = random.Random(args.seed)
    try:
        with running_world(config, FaultClient) as world, ExitStack() as stack:
            relay = SensorRelay(robot)
            stack.callback(relay.stop)
            world.start()
            stage = Stage(world, relay, chance)
            small_bytes = resident_bytes(world.processes.pid("policy_node"))
            fill_middleware(stage)
            large_bytes = resident_bytes(world.processes.pid("policy_node"))
            run = Run(stage)
            run.go_on(_in_random_order(kinds, chance), args.minutes, args.every_s)
            use, first_broken = world.client.limits.take(), world.client.limits.first_broken
            drives = world.client.drives
    except ValueError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    warm_up_s = min(WARM_UP_S, 60 * args.minutes * WARM_UP_SHARE)
    rows = summary(run, use, drives, warm_up_s)
    rows.append(
        Row("  of policy_node, before, by what is far too large", (large_bytes - small_bytes) / 1e6, None, "MB")
    )
    print(f"\n{_by_fault(run.outcomes)}\n\n{table(rows)}")
    if first_broken:
        print(f"first command outside the robot file: {first_broken}")
    if drives.first_wrong:
        print(f"first wrong of who drives and from where: {drives.first_wrong}")
    if args.json:
        outcomes = [asdict(outcome) for outcome in run.outcomes]
        figures = {"rows": rows_json(rows), "minutes": args.minutes, "every_s": args.every_s, "seed": args.seed}
        figures |= {"trouble": run.trouble, "drops": run.drops, "first_broken": first_broken, "faults": outcomes}
        figures["first_wrong"] = drives.first_wrong
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if any(row.ok is False for row in rows) else 0


def summary(run: Run, use: LimitUse, drives: DriveWatch, warm_up_s: float) -> list[Row]:
    """What the whole run must keep to."""
    rows = [
        Row("faults injected", len(run.outcomes), None, ""),
        Row("faults not named on /diagnostics", sum(o.named_s is None for o in run.outcomes), 0, "faults"),
        Row("faults that led elsewhere than they should", sum(bool(o.problem) for o in run.outcomes), 0, "faults"),
        Row("processes that ended or did not do as told", int(bool(run.trouble)), 0, ""),
        Row("times the policy fell to HOLD by itself, named", len(run.drops), None, ""),
        *limit_rows(use),
        Row("times the policy drove without being asked", drives.num_unasked, 0, ""),
        Row("commands away from an arm that had left for long", drives.num_away, 0, "commands"),
        Row("commands that were not heard", use.num_unheard, MAX_UNHEARD_SHARE * use.num_commands, "commands"),
    ]
    for node in NODES:
        growth = run.memory.growth_percent(node, warm_up_s)
        allowed = None if growth is None else MAX_GROWTH_PERCENT
        rows.append(Row(f"resident memory of {node}, growth after {warm_up_s:g} s of its life", growth, allowed, "%"))
    return rows


def _in_random_order(kinds: Mapping[str, Fault], chance: random.Random) -> Iterator[tuple[str, Fault]]:
    """Every fault once before any comes again."""
    while True:
        yield from chance.sample(sorted(kinds.items()), len(kinds))


def _line(number: int, outcome: Outcome) -> str:
    minutes, seconds = divmod(round(outcome.at_s), 60)
    named = "NOT NAMED" if outcome.named_s is None else f"named after {outcome.named_s:4.1f} s"
    line = f"{number:>5}  {minutes:>3}:{seconds:02}  {outcome.fault:<30}  {outcome.mode:<6}  {named}"
    if outcome.problem or outcome.named_s is None:
        line += f"\n        {outcome.problem or 'expected another name'}; said: {outcome.said}"
    return line


def _by_fault(outcomes: Sequence[Outcome]) -> str:
    lines = [f"{'fault':<30}  injected  named  as it should  slowest to be named"]
    for name in sorted({outcome.fault for outcome in outcomes}):
        of_kind = [outcome for outcome in outcomes if outcome.fault == name]
        named_s = [outcome.named_s for outcome in of_kind if outcome.named_s is not None]
        num_right = sum(not outcome.problem for outcome in of_kind)
        slowest = f"{max(named_s):.1f} s" if named_s else "-"
        lines.append(f"{name:<30}  {len(of_kind):>8}  {len(named_s):>5}  {num_right:>12}  {slowest:>19}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
