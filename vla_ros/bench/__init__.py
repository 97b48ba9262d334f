"""Measures the inference path against a yardstick, stage by stage, and against what the device could do."""
