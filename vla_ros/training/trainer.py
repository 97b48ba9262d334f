"""The training loop: AdamW on ``compute_loss``, an average of the weights, checkpoints to resume from."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from vla_ros.policies.base import BasePolicy
from vla_ros.policies.directory import find_device
from vla_ros.strict import config_to_dict, explained, one_line, parse_json, read_text
from vla_ros.training.config import RUN_CONFIG, OptimizerConfig, TrainConfig, to_yaml
from vla_ros.training.groups import make_optimizer, optimizer_state, parameter_groups, restore_optimizer
from vla_ros.training.metrics import StepMetrics
from vla_ros.training.samples import SampleMaker, Split
from vla_ros.training.versions import record_versions, write_whole

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
SETTINGS = "settings.json"
# Settings of a run that may change in it: they count from the next step on, or say where the same run takes place.
LATER = ("optimizer.", "lr.", "intervention_weight", "validate_every", "checkpoint_every", "num_workers", "num_threads")
PLACES = ("bags", "lesson.demonstrations", "run_dir", "output_dir", "device")
NUM_VALIDATION_SAMPLES = 512


@dataclass(frozen=True)
class Validation:
    """Errors on episodes never trained on, at the chunk's last action, by joint (rad): the policy's, and those of
    always answering the mean; ``ce_loss`` is the grounding's, 0 for a policy without."""

    error_rad: tuple[float, ...]
    guess_rad: tuple[float, ...]
    ce_loss: float

    def __str__(self) -> str:
        errors = " ".join(
            f"{error:.3f}/{guess:.3f}" for error, guess in zip(self.error_rad, self.guess_rad, strict=True)
        )
        return f"new scenes: error/guess by joint {errors} rad, grounding {self.ce_loss:.3f}"


class Trainer:
    """One run. ``policy`` is trained in place and holds the mean weights at the end; ``seconds`` is the time spent in
    the loop, over all resumptions."""

    def __init__(self, config: TrainConfig, policy: BasePolicy, samples: SampleMaker, split: Split) -> None:
        self._config = config
        self._samples = samples
        self._split = split
        self._run_dir = Path(config.run_dir)
        self._device = find_device(config.device, "device")
        self.policy = policy.to(self._device)
        optimizer = config.optimizer
        self._groups = parameter_groups(self.policy, config.lr)
        betas = optimizer.beta1, optimizer.beta2
        self._optimizer = make_optimizer(self._groups, betas=betas, weight_decay=optimizer.weight_decay)
        self._metrics: StepMetrics
        self._averaged = copy.deepcopy(self.policy).eval()
        self._step = self._num_seen = 0
        self._losses: list[float] = []
        self.seconds = 0.0

    def run(self, report: Callable[[str], None]) -> Validation:
        """Train to the last step, from the last checkpoint where there is one; ``report`` gets a line now and then."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        settings = _settings(self._config) | {"samples": str(self._samples)}
        if (checkpoint := self._run_dir / CHECKPOINT).exists():
            changed = _changed_settings(self._run_dir, settings)
            self._resume(checkpoint, report)
            for line in (*changed, *record_versions(self._run_dir)):
                report(f"{line} from step {self._step} on")
        else:
            record_versions(self._run_dir)
        write_whole(self._run_dir / SETTINGS, json.dumps(settings, indent=1))
        write_whole(self._run_dir / RUN_CONFIG, to_yaml(self._config))
        self._metrics = StepMetrics(self._run_dir, self._step)
        config, num_steps, resumed_s = self._config, self._config.optimizer.num_steps, self.seconds
        bar = tqdm(
            total=num_steps, initial=self._step, unit="step", smoothing=0.05, dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 30.0, maxinterval=60.0,  # a log wants a line now and then
        )  # fmt: skip
        with bar, closing(self._metrics):
            while self._step < num_steps:
                started = time.perf_counter()
                loss = self._train_step()
                self.seconds += time.perf_counter() - started
                self._step += 1
                if not math.isfinite(loss):
                    raise ValueError(f"step {self._step}: the loss is {loss}; lower lr.base")
                self._losses.append(loss)
                rate = f"{self._num_seen / (self.seconds - resumed_s):.1f} samples/s"
                bar.set_postfix_str(f"loss {loss:.4f}, {rate}", refresh=False)
                bar.update()
                if self._step % config.validate_every == 0 and self._step < num_steps:
                    self._validate(report)
                if self._step % config.checkpoint_every == 0 or self._step == num_steps:
                    self._save()
        self.policy.load_state_dict(self._averaged.state_dict())
        return self._validate(report)

    def _validate(self, report: Callable[[str], None]) -> Validation:
        """Judge the averaged weights on held-out episodes, and log that beside the mean loss since the last time."""
        rng = np.random.default_rng(self._config.seed)
        chosen = rng.permutation(self._split.validation)[:NUM_VALIDATION_SAMPLES]
        noise = torch.Generator().manual_seed(self._config.seed)
        errors, ce_losses = [], []
        with torch.no_grad():
            for start in range(0, len(chosen), self._config.optimizer.batch_size):
                indices = chosen[start : start + self._config.optimizer.batch_size]
                sample = self._sample(indices, rng)
                actions = self._averaged.sample_batch(sample, noise)
                said = self._samples.action.denormalize(actions.float().cpu().numpy())
                errors.append(self._samples.errors(said, indices)[:, -1])
                ce_losses.append(float(self._averaged.compute_loss(sample).parts.get("ce_loss", 0.0)))
        mean = self._samples.stats["action"].mean
        guesses = self._samples.errors(np.broadcast_to(mean, (len(chosen), *mean.shape)), chosen)[:, -1]
        error_rad = tuple(np.concatenate(errors).mean(0).tolist())
        validation = Validation(error_rad, tuple(guesses.mean(0).tolist()), float(np.mean(ce_losses)))
        judged = {name: np.round(value, 5).tolist() for name, value in asdict(validation).items()}
        loss = round(float(np.mean(self._losses)), 5) if self._losses else None
        self._losses.clear()
        record = {"step": self._step, "seconds": round(self.seconds, 1), "loss": loss, **judged}
        with (self._run_dir / LOG).open("a") as log:
            log.write(json.dumps(record) + "\n")
        report(f"step {self._step}: {validation}")
        return validation

    def _train_step(self) -> float:
        optimizer, started = self._config.optimizer, time.perf_counter()
        # Drawn from the step's number, so that a resumed run sees the samples an uninterrupted one would.
        rng = np.random.default_rng([self._config.seed, self._step])
        torch.manual_seed(self._config.seed * 1_000_003 + self._step)
        indices = self._split.draw(rng, optimizer.batch_size)
        self._num_seen += len(indices)
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.lr.of(group["part"]) * learning_rate_scale(optimizer, self._step)
        self._optimizer.zero_grad()
        with self._metrics.waiting():
            sample = self._sample(indices, rng)
        loss = self.policy.compute_loss(sample)
        loss.total.backward()
        grad_norm = nn.utils.clip_grad_norm_(self.policy.parameters(), optimizer.max_grad_norm)
        self._optimizer.step()
        # A young average would remember the random start for longer than it is worth.
        decay = min(optimizer.ema_decay, (1 + self._step) / (10 + self._step))
        trained = self.policy.state_dict()
        for name, value in self._averaged.state_dict().items():
            value.lerp_(trained[name], 1 - decay)
        total = loss.total.detach().item()
        rates = {group["part"]: group["lr"] for group in self._optimizer.param_groups}
        values = {"loss": total, **loss.parts, "grad_norm": grad_norm, "lr": rates}
        self._metrics.write(self._step + 1, values, len(indices), time.perf_counter() - started)
        return total

    def _sample(self, indices: np.ndarray, rng: np.random.Generator) -> Any:
        return self.policy.unpack_batch(self._samples.batch(indices, rng), self._device)

    def _save(self) -> None:
        """Replace the checkpoint in one move, so that a kill at any moment leaves a whole one."""
        state = {
            "step": self._step,
            "seconds": self.seconds,
            "policy": self.policy.state_dict(),
            "average": self._averaged.state_dict(),
            "optimizer": optimizer_state(self._optimizer, self._groups),
        }
        partial = self._run_dir / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        os.replace(partial, self._run_dir / CHECKPOINT)

    def _resume(self, path: Path, report: Callable[[str], None]) -> None:
        try:
            state: dict[str, Any] = torch.load(path, map_location=self._device, weights_only=True)
            self.policy.load_state_dict(state["policy"])
            restore_optimizer(self._optimizer, self._groups, state["optimizer"])
            self._averaged.load_state_dict(state["average"])
            self._step, self.seconds = state["step"], state["seconds"]
        except Exception as error:  # torch.load raises whatever its unpickler trips over
            # Torch's advice to trust the file is not passed on.
            problem = "it holds other things than weights" if "weights_only" in str(error) else one_line(error, 200)
            raise ValueError(
                f"{path}: cannot resume from it ({problem}); delete it, or give another run_dir"
            ) from error
        if (num_steps := self._config.optimizer.num_steps) < self._step:
            raise ValueError(f"optimizer.num_steps is {num_steps} and {path} at step {self._step}; expected more steps")
        report(f"resumed from {path} at step {self._step}")


def learning_rate_scale(config: OptimizerConfig, step: int) -> float:
    """Linear warm-up to 1, then half a cosine down to ``final_scale`` at the last step."""
    warmup = (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * max(0.0, progress)))
    return min(warmup, config.final_scale + (1.0 - config.final_scale) * cosine)


def check_resumable(config: TrainConfig) -> None:
    """Raises ValueError where the run of ``config.run_dir`` can't go on with this config, as far as that is known
    before its samples are."""
    if (Path(config.run_dir) / CHECKPOINT).exists():
        _changed_settings(Path(config.run_dir), _settings(config), but="samples")


def _settings(config: TrainConfig) -> dict[str, Any]:
    return dict(_named(config_to_dict(config)))


def _changed_settings(run_dir: Path, now: Mapping[str, Any], but: str = "") -> tuple[str, ...]:
    """A line for each setting that ``run_dir`` has otherwise; raises ValueError, naming each, for those that stay."""
    path = run_dir / SETTINGS
    if not path.exists():
        return (f"{path} is missing, so what has changed is not known: the present settings are used",)
    with explained(f"{path}: ", OSError, TypeError, ValueError, after="; delete it, or give another run_dir"):
        then = dict(parse_json(read_text(path)))
    changed = (name for name in sorted({*then, *now} - {but}) if then.get(name) != now.get(name))
    lines = {name: f"{name} was {then.get(name)} and is {now.get(name)}" for name in changed}
    refused = "; ".join(line for name, line in lines.items() if not name.startswith(LATER + PLACES))
    if refused:
        raise ValueError(f"{run_dir} cannot be resumed: {refused}; set back what changed, or give another run_dir")
    return tuple(lines.values())


def _named(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Every setting in nested mappings with its dotted name."""
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [item for key, inner in value.items() for item in _named(inner, f"{name}.{key}" if name else key)]
