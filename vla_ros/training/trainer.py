"""The training loop: AdamW on ``compute_loss``, an average of the weights, checkpoints to resume from."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from vla_ros.policies.base import BasePolicy
from vla_ros.training.config import OptimizerConfig, TrainConfig
from vla_ros.training.samples import SampleMaker, Split

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
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
        self._device = training_device(config.device)
        self.policy = policy.to(self._device)
        optimizer = config.optimizer
        self._optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            weight_decay=optimizer.weight_decay,
        )
        self._averaged = copy.deepcopy(self.policy).eval()
        self._step = 0
        self.seconds = 0.0

    def run(self, report: Callable[[str], None]) -> Validation:
        """Train to the last step, from the last checkpoint where there is one; ``report`` gets a line now and then."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._resume(report)
        config = self._config
        num_steps, batch_size = config.optimizer.num_steps, config.optimizer.batch_size
        quiet = not sys.stderr.isatty()  # a log file wants a line now and then, not every step
        bar = tqdm(
            total=num_steps, initial=self._step, unit="step", smoothing=0.05, dynamic_ncols=True,
            mininterval=30.0 if quiet else 0.1, maxinterval=60.0,
        )  # fmt: skip
        with bar:
            while self._step < num_steps:
                started = time.perf_counter()
                loss = self._train_step()
                self.seconds += time.perf_counter() - started
                self._step += 1
                rate = bar.format_dict["rate"] or 0.0
                bar.set_postfix_str(f"loss {loss:.4f}, {rate * batch_size:.0f} samples/s", refresh=False)
                bar.update()
                if self._step % config.validate_every == 0 and self._step < num_steps:
                    self._validate(report)
                if self._step % config.checkpoint_every == 0 or self._step == num_steps:
                    self._save()
        self.policy.load_state_dict(self._averaged.state_dict())
        return self._validate(report)

    def _validate(self, report: Callable[[str], None]) -> Validation:
        """Judge the averaged weights on held-out episodes."""
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
        record = {"step": self._step, "seconds": round(self.seconds, 1), **judged}
        with (self._run_dir / LOG).open("a") as log:
            log.write(json.dumps(record) + "\n")
        report(f"step {self._step}: {validation}")
        return validation

    def _train_step(self) -> float:
        optimizer = self._config.optimizer
        # Drawn from the step's number, so that a resumed run sees the samples an uninterrupted one would.
        rng = np.random.default_rng([self._config.seed, self._step])
        torch.manual_seed(self._config.seed * 1_000_003 + self._step)
        indices = self._split.draw(rng, optimizer.batch_size)
        for group in self._optimizer.param_groups:
            group["lr"] = optimizer.learning_rate * learning_rate_scale(optimizer, self._step)
        self._optimizer.zero_grad()
        loss = self.policy.compute_loss(self._sample(indices, rng)).total
        loss.backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), optimizer.max_grad_norm)
        self._optimizer.step()
        # A young average would remember the random start for longer than it is worth.
        decay = min(optimizer.ema_decay, (1 + self._step) / (10 + self._step))
        trained = self.policy.state_dict()
        for name, value in self._averaged.state_dict().items():
            value.lerp_(trained[name], 1 - decay)
        return loss.detach().item()

    def _sample(self, indices: np.ndarray, rng: np.random.Generator) -> Any:
        return self.policy.unpack_batch(self._samples.batch(indices, rng), self._device)

    def _save(self) -> None:
        """Replace the checkpoint in one move, so that a kill at any moment leaves a whole one."""
        state = {
            "step": self._step,
            "seconds": self.seconds,
            "policy": self.policy.state_dict(),
            "average": self._averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        partial = self._run_dir / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        os.replace(partial, self._run_dir / CHECKPOINT)

    def _resume(self, report: Callable[[str], None]) -> None:
        path = self._run_dir / CHECKPOINT
        if not path.exists():
            return
        try:
            state: dict[str, Any] = torch.load(path, map_location=self._device, weights_only=True)
            self.policy.load_state_dict(state["policy"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._averaged.load_state_dict(state["average"])
            self._step, self.seconds = state["step"], state["seconds"]
        except Exception as error:  # torch.load raises whatever its unpickler trips over
            problem = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path}: cannot resume from it ({problem}); delete it, or give another run_dir"
            ) from error
        report(f"resumed from {path} at step {self._step}")


def learning_rate_scale(config: OptimizerConfig, step: int) -> float:
    """Linear warm-up to 1, then half a cosine down to 0 at the last step."""
    warmup = (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return min(warmup, 0.5 * (1.0 + math.cos(math.pi * max(0.0, progress))))


def training_device(name: str) -> torch.device:
    """``auto`` takes the GPU where there is one. Raises ValueError for a device this machine lacks."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device '{name}' is not available; expected auto, cpu, or cuda on a machine with a GPU")
    return torch.device(name)
