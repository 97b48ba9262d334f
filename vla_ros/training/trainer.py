"""The training loop: AdamW on ``compute_loss``, an average of the weights, checkpoints to resume from."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from vla_ros.policies.base import BasePolicy, LossTerm
from vla_ros.policies.directory import find_device
from vla_ros.policies.files import WEIGHTS_FILE
from vla_ros.strict import explained
from vla_ros.training.checkpoints import (
    AVERAGE,
    OPTIMIZER,
    WEIGHTS,
    CheckpointInfo,
    CheckpointWriter,
    check_files,
    check_stored,
    find_checkpoints,
    read_info,
    read_stored,
    read_tensors,
)
from vla_ros.training.config import RUN_CONFIG, OptimizerConfig, TrainConfig, to_yaml
from vla_ros.training.ema import AveragedWeights
from vla_ros.training.fetch import Fetcher
from vla_ros.training.groups import begin_moments, make_optimizer, optimizer_state, parameter_groups
from vla_ros.training.metrics import StepMetrics
from vla_ros.training.parallelize import parallelize
from vla_ros.training.processes import Processes, whole
from vla_ros.training.samples import SampleMaker, Split
from vla_ros.training.settings import SAMPLES, SETTINGS, changed_settings, named_settings
from vla_ros.training.shards import read_shards
from vla_ros.training.versions import record_versions, write_whole
from vla_ros.transforms.sample import TrainingBatch

LOG = "log.jsonl"
NUM_VALIDATION_SAMPLES = 512
CHOICE, SAMPLE, JUDGED, DROPOUT = range(4)  # what is drawn, each from numbers of its own


@dataclass(frozen=True)
class Validation:
    """Errors on episodes never trained on, at each chunk's last action within its episode, by joint (rad): the
    policy's, and those of always answering the mean; ``ce_loss`` is the grounding's, 0 for a policy without."""

    error_rad: tuple[float, ...]
    guess_rad: tuple[float, ...]
    ce_loss: float

    def __str__(self) -> str:
        errors = " ".join(
            f"{error:.3f}/{guess:.3f}" for error, guess in zip(self.error_rad, self.guess_rad, strict=True)
        )
        return f"new scenes: error/guess by joint {errors} rad, grounding {self.ce_loss:.3f}"


@dataclass(frozen=True)
class Fetched:
    """This process's share of the ``num_drawn`` samples of a step, and what is random in their loss."""

    batch: TrainingBatch
    draws: Any
    num_drawn: int


class Trainer:
    """One run. ``policy`` is trained in place and holds the mean weights at the end; ``seconds`` is the time spent in
    the loop, over all resumptions.

    Each process trains on its share of every batch. What is random depends on the seed, the step and the position in
    the whole batch, and the loss is divided by what the whole batch has: the run is the same on any number of them, to
    rounding. Raises ValueError where a batch can't be shared.
    """

    def __init__(
        self, config: TrainConfig, policy: BasePolicy, samples: SampleMaker, split: Split, processes: Processes
    ) -> None:
        self._config = config
        self._processes = processes
        self._share = processes.share(split.num_drawn(config.optimizer.batch_size))
        self._samples = samples
        self._split = split
        self._run_dir = Path(config.run_dir)
        self._device = find_device(config.device, "device")
        is_unread = next(policy.parameters()).is_meta
        self.policy = policy if is_unread else policy.to(self._device)
        dtype = getattr(torch, config.precision)
        parallelize(self.policy, processes, self._device, config.checkpoint_layers, config.compile_layers, dtype)
        if is_unread:
            read_shards(self.policy, Path(config.start_from) / WEIGHTS_FILE, self._device)
        optimizer = config.optimizer
        self._groups = parameter_groups(self.policy, config.lr)
        betas = optimizer.beta1, optimizer.beta2
        self._optimizer = make_optimizer(self._groups, betas=betas, weight_decay=optimizer.weight_decay)
        self._metrics: StepMetrics | None = None  # the first process's
        self._weights = dict(self.policy.named_parameters())  # as they are spread, whatever a pass has gathered
        self._averages = AveragedWeights(self.policy)
        self._settings = named_settings(config) | {SAMPLES: str(samples)}
        self._fetcher = Fetcher(self._fetch, optimizer.num_steps)
        self._step = self._num_drawn = 0
        self._losses: list[float] = []
        self._grad_norm = 0.0
        self.seconds = 0.0

    def resume(self, report: Callable[[str], None]) -> None:
        """Go on from the newest checkpoint of the run's folder, where there is one, and write there what the run is.

        Raises ValueError for a checkpoint that is damaged, or of another run.
        """
        self._run_dir.mkdir(parents=True, exist_ok=True)
        changed: tuple[str, ...] = ()
        if found := find_checkpoints(self._run_dir):
            info = read_info(found[-1])
            changed = changed_settings(info.settings, self._settings, f"{found[-1]} cannot be resumed")
            self._read(found[-1], info)
            report(f"resumed from {found[-1]} at step {self._step}")
        self._processes.wait()  # until all have read what is written now
        if self._processes.is_first:
            changed = (*changed, *record_versions(self._run_dir))
            write_whole(self._run_dir / SETTINGS, json.dumps(self._settings, indent=1))
            write_whole(self._run_dir / RUN_CONFIG, to_yaml(self._config))
            self._metrics = StepMetrics(self._run_dir, self._step)
        for line in changed if self._step else ():
            report(f"{line} from step {self._step} on")

    def run(self, report: Callable[[str], None]) -> Validation:
        """Train to the last step, of which there is a whole checkpoint then; ``report`` gets a line now and then."""
        config, num_steps = self._config, self._config.optimizer.num_steps
        began_s, num_before = self.seconds, self._num_drawn
        bar = tqdm(
            total=num_steps, initial=self._step, unit="step", smoothing=0.05, dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 30.0, maxinterval=60.0,  # a log wants a line now and then
            disable=not self._processes.is_first,
        )  # fmt: skip
        with bar, closing(self._fetcher), nullcontext() if self._metrics is None else closing(self._metrics):
            with CheckpointWriter(self._run_dir, config.keep_checkpoints, self._processes) as writer:
                while self._step < num_steps:
                    started = time.perf_counter()
                    loss = self._train_step()
                    self.seconds += time.perf_counter() - started
                    self._step += 1
                    for what, value in (("loss", loss), ("norm of the gradient", self._grad_norm)):
                        if not math.isfinite(value):
                            got = f"step {self._step}: the {what} is {value}"
                            raise ValueError(f"{got}; lower lr.base{self._way_back(writer)}")
                    self._losses.append(loss)
                    rate = f"{(self._num_drawn - num_before) / (self.seconds - began_s):.1f} samples/s"
                    bar.set_postfix_str(f"loss {loss:.4f}, {rate}", refresh=False)
                    bar.update()
                    writer.check()
                    if self._step % config.validate_every == 0 and self._step < num_steps:
                        self._validate(report)
                    if self._step % config.checkpoint_every == 0 or self._step == num_steps:
                        self._save(writer)
            self._averages.install()
            return self._validate(report)

    def _validate(self, report: Callable[[str], None]) -> Validation:
        """Judge the averaged weights on held-out episodes, and log that beside the mean loss since the last time."""
        rng, batch_size = self._rng(0, JUDGED), self._config.optimizer.batch_size
        chosen = rng.permutation(self._split.validation)[:NUM_VALIDATION_SAMPLES]
        num_joints = len(self._config.data.joint_names)
        sums = np.zeros((2, num_joints + 1))  # of errors and their number, of the cross-entropy and its number
        with self._averages.in_place(), torch.no_grad():
            for start in range(0, len(chosen), batch_size):
                sums += self._judge(chosen[start : start + batch_size], start)
        errors, numbers = self._processes.sum(sums)
        error_rad = errors / numbers.clip(1)
        mean = self._samples.stats["action"].mean
        guesses = self._samples.last_errors(np.broadcast_to(mean, (len(chosen), *mean.shape)), chosen)
        validation = Validation(
            tuple(error_rad[:num_joints].tolist()), tuple(guesses.mean(0).tolist()), float(error_rad[num_joints])
        )
        judged = {name: np.round(value, 5).tolist() for name, value in asdict(validation).items()}
        loss = round(float(np.mean(self._losses)), 5) if self._losses else None
        self._losses.clear()
        record = {"step": self._step, "seconds": round(self.seconds, 1), "loss": loss, **judged}
        if self._processes.is_first:
            with (self._run_dir / LOG).open("a") as log:
                log.write(json.dumps(record) + "\n")
        report(f"step {self._step}: {validation}")
        return validation

    def _judge(self, indices: np.ndarray, start: int) -> np.ndarray:
        """This process's share of some validation samples, which follow ``start`` others: errors at the last action, by
        joint, and then the cross-entropy, summed; below them, over how many."""
        positions = np.arange(self._processes.rank, len(indices), self._processes.num)
        is_spare = len(positions) == 0  # a pass is everybody's, though there be fewer samples than processes
        own = indices[[0]] if is_spare else indices[positions]
        rngs = [self._rng(start + position, JUDGED) for position in (positions if len(positions) else [0])]
        batch, draws = self._fetcher.call(lambda: self._sample(own, rngs))
        sample = self.policy.unpack_batch(batch, self._device)
        said = self.policy.sample_batch(sample, rngs)
        term = self.policy.compute_loss(sample, draws).terms.get("ce_loss", LossTerm(torch.zeros(()), 0))
        errors = self._samples.last_errors(self._samples.action.denormalize(said.float().cpu().numpy()), own)
        is_seen = np.ones(len(own), bool) if batch.num_known is None else batch.num_known > 0
        numbers = [*[is_seen.sum()] * errors.shape[1], term.num_values]
        sums = np.array([[*errors[is_seen].sum(0), term.sum.item()], numbers])
        return np.zeros_like(sums) if is_spare else sums

    def _train_step(self) -> float:
        """One step of all processes, and the loss over the whole batch."""
        optimizer, started = self._config.optimizer, time.perf_counter()
        torch.manual_seed(int(self._rng(self._processes.rank, DROPOUT, self._step).integers(2**62)))
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.lr.of(group["part"]) * learning_rate_scale(optimizer, self._step)
        self._optimizer.zero_grad()
        with nullcontext() if self._metrics is None else self._metrics.waiting():
            fetched = self._fetcher.take(self._step)
            sample = self.policy.unpack_batch(fetched.batch, self._device)
        self._num_drawn += fetched.num_drawn
        loss = self.policy.compute_loss(sample, fetched.draws)
        num_values = self._processes.sum(list(loss.num_values.values()))
        loss.over(dict(zip(loss.terms, num_values.tolist(), strict=True))).backward()
        self._grad_norm = float(whole(nn.utils.clip_grad_norm_(self.policy.parameters(), optimizer.max_grad_norm)))
        self._optimizer.step()
        # A young average would remember the random start for longer than it is worth.
        self._averages.update(min(optimizer.ema_decay, (1 + self._step) / (10 + self._step)))
        sums = self._processes.sum(torch.stack([term.sum.detach() for term in loss.terms.values()]).tolist())
        means = dict(zip(loss.terms, (sums / num_values.clip(1)).tolist(), strict=True))
        total = sum(term.weight * means[name] for name, term in loss.terms.items())
        rates = {group["part"]: group["lr"] for group in self._optimizer.param_groups}
        values = {"loss": total, **means, "grad_norm": self._grad_norm, "lr": rates}
        if self._metrics is not None:
            self._metrics.write(self._step + 1, values, fetched.num_drawn, time.perf_counter() - started)
        return total

    def _fetch(self, step: int) -> Fetched:
        """This process's share of a step's batch."""
        # Drawn from the step's number, so that a resumed run sees the samples an uninterrupted one would.
        indices = self._split.draw(self._rng(0, CHOICE, step), self._config.optimizer.batch_size)
        rngs = [self._rng(position, SAMPLE, step) for position in range(len(indices))[self._share]]
        return Fetched(*self._sample(indices[self._share], rngs), len(indices))

    def _sample(self, indices: np.ndarray, rngs: Sequence[np.random.Generator]) -> tuple[TrainingBatch, Any]:
        """Samples, and what is random in their loss."""
        batch = self._samples.batch(indices, rngs)
        return batch, self.policy.draw(rngs)

    def _rng(self, position: int, what: int, step: int = 0) -> np.random.Generator:
        """What is random at a position of the whole batch of a step; in judging it is the same at any step."""
        return np.random.default_rng([self._config.seed, step, position, what])

    def _save(self, writer: CheckpointWriter) -> None:
        info = CheckpointInfo(self._step, self.seconds, self._num_drawn, self._settings)
        writer.save(info, self._tensors())

    def _tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint is made of, where it is: weights, averages, and what the optimizer remembers."""
        moments = optimizer_state(self._optimizer, self._groups)
        tensors = {
            **{WEIGHTS + name: value for name, value in self._weights.items()},
            **{AVERAGE + name: value for name, value in self._averages.values.items()},
            **{f"{OPTIMIZER}{kind}.{name}": kept[kind] for name, kept in moments.items() for kind in kept},
        }
        return {name: value.detach() for name, value in tensors.items()}

    def _read(self, path: Path, info: CheckpointInfo) -> None:
        """Raises ValueError for a checkpoint that is damaged, or of another policy."""
        check_files(path, info, self._processes)
        stored = read_stored(path)
        remembered = {name.removeprefix(OPTIMIZER).partition(".")[2] for name in stored if name.startswith(OPTIMIZER)}
        with explained(f"{path} cannot be resumed: "):
            begin_moments(self._optimizer, self._groups, remembered)
            check_stored(stored, self._tensors())
        read_tensors(path, self._tensors())
        self._step, self.seconds, self._num_drawn = info.step, info.seconds, info.num_drawn

    def _way_back(self, writer: CheckpointWriter) -> str:
        """Where a run that failed can go on from."""
        writer.wait()
        self._processes.wait()  # for the first one, which completes a checkpoint
        found = find_checkpoints(self._run_dir)
        return f"; --resume goes on from {found[-1].name}" if found else ""


def learning_rate_scale(config: OptimizerConfig, step: int) -> float:
    """Linear warm-up to 1, then half a cosine down to ``final_scale`` at the last step."""
    warmup = (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * max(0.0, progress)))
    return min(warmup, config.final_scale + (1.0 - config.final_scale) * cosine)


def state_bytes(policy: BasePolicy) -> int:
    """How large a checkpoint is, but for a few bytes a weight: weights, and of those that are trained the average and
    AdamW's two moments, too."""
    return sum(w.numel() * w.element_size() * (4 if w.requires_grad else 1) for w in policy.parameters())


def check_resumable(config: TrainConfig) -> None:
    """Raises ValueError where the run of ``config.run_dir`` can't go on with this config, as far as that is known
    before its samples are."""
    found = find_checkpoints(Path(config.run_dir))
    if not found:
        return
    info = read_info(found[-1])
    changed_settings(info.settings, named_settings(config), f"{found[-1]} cannot be resumed", but=SAMPLES)
    if (num_steps := config.optimizer.num_steps) < info.step:
        got = f"optimizer.num_steps is {num_steps} and {found[-1]} at step {info.step}"
        raise ValueError(f"{got}; expected more steps")
