"""The Qwen3-VL backbone."""
