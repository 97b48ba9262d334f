"""Training on several processes is that on one; layers may be checkpointed, compiled and sharded, and stay what they
are."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from policy_helpers import pi_config, rngs, training_batch

torch = pytest.importorskip("torch")

from vla_ros.policies.base import LossTerm, PolicyLoss  # noqa: E402
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402
from vla_ros.policies.utils.training import checkpointed, with_own_method, wrap_method  # noqa: E402
from vla_ros.training.processes import Processes  # noqa: E402


def make_policy(**changes: Any) -> PiPolicy:
    torch.manual_seed(0)
    policy = PiPolicy(pi_config(max_frozen_actions=2, **changes))
    with torch.no_grad():  # modulations start at zero, which would hide mistakes in them
        for parameter in policy.action_expert.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def gradients(policy: PiPolicy) -> dict[str, torch.Tensor]:
    loss = policy.compute_loss(policy.unpack_batch(training_batch(policy.config)), policy.draw(rngs(2))).total
    loss.backward()
    return {"loss": loss.detach(), **{name: value.grad for name, value in policy.named_parameters()}}


def test_a_loss_over_the_counts_of_all_is_that_of_the_whole_batch() -> None:
    parts = [PolicyLoss({"ce": LossTerm(torch.tensor(sum_), num, 0.5)}) for sum_, num in ((6.0, 2), (1.0, 6))]
    assert sum(float(part.over({"ce": 8})) for part in parts) == pytest.approx(0.5 * 7 / 8)
    assert np.mean([float(part.total) for part in parts]) != pytest.approx(0.5 * 7 / 8)


def test_a_batch_without_answers_leaves_the_head_alone_and_a_part_without_any_gives_it_zeros() -> None:
    policy = make_policy(vlm_config={**pi_config().vlm_config, "tie_word_embeddings": False})
    head = policy.vlm_bridge.causal_model.lm_head.weight
    sample = policy.unpack_batch(training_batch(policy.config, with_answers=False))
    loss = policy.compute_loss(sample, policy.draw(rngs(2)))
    loss.total.backward()
    assert loss.terms["ce_loss"].num_values == 0 and head.grad is None
    loss = policy.compute_loss(sample, policy.draw(rngs(2)))
    loss.over(loss.num_values | {"ce_loss": 5}).backward()
    assert head.grad is not None and not head.grad.any()


def test_what_a_sample_is_given_depends_on_no_other_of_the_batch() -> None:
    policy = make_policy()
    together, alone = policy.draw(rngs(3)), policy.draw(rngs(3)[1:2])
    assert torch.equal(together.noise[1:2], alone.noise) and torch.equal(together.time[1:2], alone.time)
    assert torch.equal(together.num_frozen[1:2], alone.num_frozen)


def test_a_batch_that_has_no_equal_part_for_each_process_is_refused() -> None:
    assert [Processes(rank, 3).share(9) for rank in (0, 2)] == [slice(0, 3), slice(6, 9)]
    with pytest.raises(
        ValueError, match="a batch has 8 samples for 3 processes; expected a multiple: set optimizer.batch"
    ):
        Processes(1, 3).share(8)


def test_checkpointed_layers_give_the_same_loss_and_gradients_bit_for_bit() -> None:
    plain, policy = gradients(make_policy()), make_policy()
    names, runs = [name for name, _ in policy.named_parameters()], []
    for layer in map(with_own_method, policy.layers()):
        wrap_method(layer, checkpointed)
        wrap_method(layer, lambda run: lambda *args: runs.append(run) or run(*args))
    got = gradients(policy)
    assert len(runs) == len(set(map(id, runs))) == len(policy.layers()) == 9, (
        "each layer is run by its one method, once"
    )
    assert [name for name, _ in policy.named_parameters()] == names
    assert all(torch.equal(got[name], value) for name, value in plain.items())


def test_every_layer_can_be_compiled_without_a_break_of_its_graph() -> None:
    plain, policy = gradients(make_policy()), make_policy()
    for layer in map(with_own_method, policy.layers()):
        wrap_method(layer, checkpointed)
        wrap_method(layer, lambda run: torch.compile(run, fullgraph=True, backend="eager"))
    for name, value in gradients(policy).items():
        torch.testing.assert_close(value, plain[name], rtol=1e-5, atol=1e-6)


def test_inference_imports_nothing_of_sharding() -> None:
    code = """
import sys, vla_ros.policies.pi.policy, vla_ros.execution.runner
print([name for name in sys.modules if name.startswith(("vla_ros.policies.utils.training", "vla_ros.training"))])
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_benchmarks_own_samples_are_what_training_takes() -> None:
    from sharded_training import make_config, make_samples

    batch = make_samples(make_config()).batch(np.arange(4), rngs(4))
    policy = PiPolicy(make_config())
    terms = policy.compute_loss(policy.unpack_batch(batch), policy.draw(rngs(4))).terms
    assert all(torch.isfinite(term.sum) for term in terms.values()) and terms["ce_loss"].num_values > 0
