"""Normalisation, action semantics and sample types: numpy only."""
