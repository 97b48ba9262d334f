"""Layers that several backbones and experts share."""
