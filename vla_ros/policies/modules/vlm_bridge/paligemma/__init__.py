"""The PaliGemma backbones, 1 and 2."""
