"""Buffers, matching and observations: one rule for live, replay and training."""
