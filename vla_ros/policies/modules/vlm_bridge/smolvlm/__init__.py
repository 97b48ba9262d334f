"""The SmolVLM 2 backbone."""
