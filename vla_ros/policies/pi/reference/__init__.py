"""The Pi policy written plainly, over the modules of a ``PiPolicy``: what a gain in speed is measured against.

``plain_actions`` is ``encode_prefix`` and ``predict_suffix`` composed as the papers describe them: one batched
attention call for each layer, no language-model head, nothing copied without need, but also nothing prepared, packed or
left out. ``as_written_actions`` adds what the published reference also does at each inference: the language-model head
at every token, hidden states, keys and values of all layers stacked into tensors. No function of the optimised path is
called.
"""

from __future__ import annotations

from vla_ros.policies.pi.reference.compose import as_written_actions, plain_actions

__all__ = ["as_written_actions", "plain_actions"]
