"""SmolVLA, after Shukor et al., arXiv 2506.01844, as LeRobot trains it."""
