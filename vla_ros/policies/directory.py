"""The model side of a policy directory: load weights, check the golden actions; save what training made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vla_ros.policies.base import BasePolicy, infer
from vla_ros.policies.config import CONFIG_FILE
from vla_ros.policies.files import GOLDEN_FILE, WEIGHTS_FILE, OpenPolicy, open_policy, replaced_whole, write_files
from vla_ros.policies.fill import build_on_meta, build_policy, check_shapes, fill_policy
from vla_ros.policies.golden import GoldenCase, decode_golden, write_golden
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.share import stand_in
from vla_ros.strict import check_safetensors, explained
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.types import Observation

# In normalised units. Rounding on another processor stays far below; a wrong weight or formula far above.
ACTION_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy on its ``device`` and its processor; ``warm_up_requests`` are one for each shape that the processor
    makes, ``drift`` is one line where the golden case no longer holds, else empty; ``notes`` as those of an
    ``OpenPolicy``."""

    policy: BasePolicy
    device: torch.device
    processor: PolicyProcessor
    warm_up_requests: tuple[PolicyRequest, ...]
    drift: str = ""
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return self.processor.digest


def find_device(name: str, where: str) -> torch.device:
    """The device of that name, ``auto`` for a GPU where there is one; raises ValueError, naming ``where`` it was given,
    where it isn't there."""
    num_gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if num_gpus else "cpu"
    if name not in ["cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{i}" for i in range(num_gpus))]:
        expected = f"expected auto, cpu, or cuda where torch sees a GPU (it sees {num_gpus} here)"
        raise ValueError(f"{where} is '{name}'; {expected}")
    return torch.device(name)


def load_policy(
    policy_dir: str | Path,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    with_guidance: bool = False,
    refuse_drift: bool = True,
) -> LoadedPolicy:
    """The policy of a directory on ``device`` with weights of ``dtype``, after recomputing its golden actions. One that
    is computed elsewhere has none, and takes its requests on the CPU.

    ``with_guidance``: requests for real-time chunking are among those to warm up with.

    Raises ValueError, in one line, for what ``load_processor`` refuses, for damaged or foreign weights, and for actions
    that drifted; what drifted is only told with ``refuse_drift`` off.
    """
    policy_dir, device = Path(policy_dir), torch.device(device)
    policy: BasePolicy | None = None

    def fill(opened: OpenPolicy, path: Path) -> str:
        nonlocal policy
        policy = build_on_meta(opened.processor.config, CONFIG_FILE)
        return _fill(policy, path, device, dtype)

    opened = open_policy(policy_dir, refuse_drift, fill)
    config, golden, elsewhere = opened.processor.config, opened.golden, device
    if policy is None:
        policy, device = build_policy(config), torch.device("cpu")
    policy = policy.to(device).eval()
    try:
        with explained(f"policy directory {policy_dir}: "):
            policy.load_sync(stand_in(policy_dir), elsewhere)
            drift = policy.drift_sync(golden.request, golden.actions, ACTION_TOLERANCES[dtype], device)
            requests = opened.processor.warm_up_requests(golden.observation, with_guidance)
            if refuse_drift and (drift := opened.drift or drift):
                raise ValueError(drift)
    except ValueError:
        policy.close()
        raise
    return LoadedPolicy(policy, device, opened.processor, requests, opened.drift or drift, opened.notes)


def save_policy(
    policy_dir: str | Path, policy: BasePolicy, processor: PolicyProcessor, observation: Observation
) -> None:
    """Write a complete policy directory, which takes the place of one that is there in one move; ``observation`` (a
    real one) becomes its golden case.

    Raises ValueError where the observation doesn't fit the policy, or the directory can't be written.
    """
    with replaced_whole(Path(policy_dir)) as folder:
        write_files(folder, processor)
        weights = {name: value.detach().cpu().contiguous() for name, value in policy.named_parameters()}
        save_file(weights, folder / WEIGHTS_FILE)
        request = processor.process(observation)
        was_training = policy.training
        actions = infer(policy.eval(), request, next(policy.parameters()).device)
        policy.train(was_training)
        decoded = decode_golden(processor, observation, actions)
        write_golden(folder / GOLDEN_FILE, GoldenCase(observation, request, actions, decoded))


def _fill(policy: BasePolicy, path: Path, device: torch.device, dtype: torch.dtype) -> str:
    """One weight after the other, because a policy may be as large as the memory, each first into memory of its own:
    the file's, mapped, is whatever is copied over it later. Returns the SHA-256 of the file as it was read."""
    weights: dict[str, Tensor] = {}
    with explained(f"{path.name}: damaged (", OSError, ValueError, after="); restore it"):
        check_safetensors(path)
    with (
        explained(f"{path.name}: damaged (", SafetensorError, OSError, after="); restore it"),
        safe_open(path, framework="pt") as file,
        path.open("rb") as raw,
    ):
        stored = {name: file.get_slice(name).get_shape() for name in file.offset_keys()}
        with explained(f"{path.name}: "):
            wanted = {name: shape for name, shape in stored.items() if not policy.is_obsolete(name)}
            check_shapes(wanted, policy, "weights and policy.yaml don't belong together")
        length = raw.read(8)
        digest = hashlib.sha256(length + raw.read(int.from_bytes(length, "little")))
        for name in stored:  # as they lie in the file, without gaps
            value = file.get_tensor(name).clone()
            digest.update(value.flatten().view(torch.uint8).numpy())
            if name in wanted:
                weights[name] = value.to(device, dtype)
    fill_policy(policy, weights.pop)
    return digest.hexdigest()
