"""What any policy is; what its processor is says ``processor``, and ``families`` which there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vla_ros.policies.config import CONFIG_FILE, PolicyConfig
from vla_ros.policies.families import family_of
from vla_ros.policies.files import GOLDEN_FILE
from vla_ros.strict import explained
from vla_ros.transforms.chunking import check_guidance
from vla_ros.transforms.sample import PolicyRequest, TrainingBatch

OnStage = Callable[[str], None]
"""Told the name of each stage of an inference when it has ended."""


def tell_nobody(stage: str) -> None:
    """Where nobody asks about stages."""


class PolicyUnavailable(ValueError):
    """There is no answer this time, for a reason outside of this program, which it says in one line."""


class LossTerm(NamedTuple):
    """``sum`` is over ``num_values`` values, which the host knows; their mean counts ``weight`` times in the loss."""

    sum: Float[Tensor, ""]
    num_values: float
    weight: float = 1.0

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Detached; 0 without values."""
        return self.sum.detach() / max(1, self.num_values)


class PolicyLoss(NamedTuple):
    """What a loss is made of, by name. The mean of a batch is not that of the means of its parts where they have
    different numbers of values: whoever splits one adds up those numbers first."""

    terms: Mapping[str, LossTerm]

    @property
    def num_values(self) -> dict[str, float]:
        """Those of each term."""
        return {name: term.num_values for name, term in self.terms.items()}

    def over(self, num_values: Mapping[str, float]) -> Float[Tensor, ""]:
        """What to minimise where each term has so many values, of which these are a part; one without any is left out,
        and what it would have been computed of gets no gradient from it."""
        there = [(name, term) for name, term in self.terms.items() if num_values[name]]
        return torch.stack([term.weight / num_values[name] * term.sum for name, term in there]).sum()

    @property
    def total(self) -> Float[Tensor, ""]:
        """What to minimise where this is the whole batch."""
        return self.over(self.num_values)

    @property
    def parts(self) -> dict[str, Float[Tensor, ""]]:
        """The mean of each term."""
        return {name: term.mean for name, term in self.terms.items()}


class Layer(NamedTuple):
    """One of a policy's repeated parts: in training its ``module`` is read in nothing but its ``method``, once in each
    pass. A module of another library has none of its own: then it is the ``owner``'s, which takes the module first."""

    module: nn.Module
    method: str
    owner: Any = None


class BasePolicy(nn.Module, ABC):
    """A network that turns requests into chunks of actions. Values in and out are normalised.

    It is built from its configuration alone, with random weights. A request reaches it as tensors on its device; what
    ``unpack`` makes of those and what ``prepare`` makes are its own, and nobody else looks into them.
    """

    guides_by_gradient: bool = False
    """Whether it takes gradients through itself for a request that continues a chunk."""
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The beginnings of parameter names that make up its ``backbone``, which was trained on other data before, and its
    ``expert``, which acts; a part that it lacks is left out."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def pack_weights(self) -> None:
        """Lay the weights out for inference, where they are: same names, values and memory, fewer operators.

        Not for training; moving the policy to another device afterwards undoes it wrongly.
        """

    @property
    def prepares(self) -> tuple[nn.Module, ...]:
        """The modules that nothing but ``prepare`` reads of an inference's."""
        return ()

    @property
    def repeated(self) -> tuple[nn.Module, ...]:
        """The modules whose ``forward`` is most of each step of an inference: what is worth compiling."""
        return ()

    @abstractmethod
    def check_request(self, request: PolicyRequest) -> None:
        """Look at a request on the host; raises ValueError for one that another policy's processor made.

        A family adds what its own tensors must be.
        """
        if request.is_guided and not family_of(self.config).processor_class().is_guidable:
            raise ValueError(f"request continues a chunk, which a {self.config.type} can't; choose another strategy")
        shape = (self.config.action_horizon, self.config.action_dim)
        check_guidance(request.previous_actions, request.guidance_weights, shape)

    @abstractmethod
    def unpack(self, tensors: Mapping[str, Tensor], constants: Mapping[str, str]) -> Any:
        """The inputs of ``sample``: views of a request's ``tensors``, each with a batch dimension of 1, on the device.

        Called once for each shape of request: what changes from request to request is read in ``sample``.
        """

    @abstractmethod
    def prepare(self) -> Any:
        """What all inferences share because it depends on weights and configuration alone."""

    @abstractmethod
    def sample(
        self, inputs: Any, prepared: Any, on_stage: OnStage = tell_nobody
    ) -> Float[Tensor, "batch horizon action"]:
        """The actions. Waits for nothing and moves nothing between host and device; no value decides what runs."""

    def draw(self, rngs: Sequence[np.random.Generator]) -> Any:
        """What is random in the loss of a batch, drawn on the host, with one generator for each sample; None where
        nothing is."""
        return None

    @abstractmethod
    def compute_loss(self, sample: Any, draws: Any) -> PolicyLoss:
        """The loss of a ``sample`` that ``unpack_batch`` made, with ``draws`` of ``draw``."""

    def layers(self) -> tuple[Layer, ...]:
        """The repeated parts that hold most of its weights, in the order in which they run in training."""
        return ()

    @abstractmethod
    def unpack_batch(self, batch: TrainingBatch, device: torch.device | str = "cpu") -> Any:
        """A training batch on the device."""

    @abstractmethod
    def sample_batch(self, sample: Any, rngs: Sequence[np.random.Generator]) -> Float[Tensor, "batch horizon action"]:
        """Actions for the observations of a training batch, in few steps: to judge a policy in training, which it runs
        layer by layer as training does. There is one of ``rngs`` for each sample."""

    def check_guidance_sync(self, inputs: Any, prepared: Any) -> None:
        """Look whether guidance works here, before the first guided request; raises ValueError where it doesn't.

        May wait for the device.
        """

    def init_vision(self, pos_emb_std: float) -> None:  # noqa: B027
        """Before training from random weights: draw the position embeddings of what is seen, where it has any, with
        this standard deviation. At the usual 0.02 a backbone is slow to learn that what it sees is somewhere."""

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a policy of this family to start training from, made to fit where only a size was changed that
        they can follow."""
        return weights

    def backbone_name(self, name: str) -> str | None:
        """What a weight of a backbone that its processor class takes (``on_backbone``) is called here, by its name in
        transformers; None for one that nobody reads, and one that isn't known keeps its name."""
        return name

    def is_obsolete(self, name: str) -> bool:
        """Whether a file written by an earlier release may hold a weight that nothing reads any more."""
        return False

    def unpack_request(self, request: PolicyRequest, device: torch.device | str = "cpu") -> Any:
        """A request's inputs without any buffers."""
        return self.unpack(batch_of_one(request, device), request.constants)

    def drift_sync(
        self, request: PolicyRequest, actions: np.ndarray, tolerance: float, device: torch.device | str = "cpu"
    ) -> str:
        """One line where it answers the golden ``request`` with others than the golden ``actions`` [horizon,
        action_dim], else empty. Raises ValueError where it can't answer."""
        again = infer(self, request, device)
        if again.shape != actions.shape:
            return f"{GOLDEN_FILE}: actions of shape {actions.shape}; the policy gives {again.shape}"
        worst = float(np.abs(again - actions).max())
        if worst <= tolerance:
            return ""
        return (
            f"output drifted: golden actions differ by up to {worst:.3g}, expected at most {tolerance}; "
            "weights, code or a library changed since export: restore them or export the policy again"
        )

    def load_sync(self, policy_dir: Path, device: torch.device) -> None:  # noqa: B027
        """Of one that doesn't run here: read what it needs of its directory; ``device`` is where it may compute.

        Raises ValueError where that is missing or damaged.
        """

    @property
    def waits_for(self) -> str:
        """What each inference waits for besides the device; empty where nothing is."""
        return self.config.waits_for

    @property
    def trouble(self) -> str:
        """Why it couldn't answer now, in one line, where that is known without asking it; empty where it could."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Give back what it holds besides memory; it isn't used any more."""


def infer(policy: BasePolicy, request: PolicyRequest, device: torch.device | str) -> np.ndarray:
    """The normalised actions float32 [horizon, action_dim] for one request, without any buffers; waits for them.

    Raises ValueError where the configuration's sizes don't go together.
    """
    # Sizes that don't go together show as whatever a library raises.
    with explained(f"{CONFIG_FILE}: the policy cannot be computed: ", Exception), without_gradients(request.is_guided):
        actions = policy.sample(policy.unpack_request(request, device), policy.prepare())
    return actions[0].float().cpu().numpy()


def without_gradients(is_guided: bool) -> AbstractContextManager[object]:
    """Inference mode has less to do for each operator; inside it some releases of torch give zeros for guidance."""
    return torch.no_grad() if is_guided else torch.inference_mode()


def batch_of_one(request: PolicyRequest, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a request on a device, each with a batch dimension."""
    return {name: torch.from_numpy(array)[None].to(device) for name, array in request.to_tensors().items()}
