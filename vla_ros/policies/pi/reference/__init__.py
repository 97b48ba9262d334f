"""The Pi policy written plainly, over the modules of a ``PiPolicy``: what a gain in speed is measured against.

``plain_actions`` is ``encode_prefix`` and ``predict_suffix`` composed as the papers describe them: one batched
attention call for each layer, no language-model head, nothing copied without need, but also nothing prepared, packed or
left out. ``as_written_actions`` adds what the published reference also does at each inference: the language-model head
at every token, hidden states, keys and values of all layers stacked into tensors. Of the optimised path only what is
the same operators in any case is called: embeddings, norms, heads, pixels, a SigLIP tower that isn't packed.
"""
