"""ACT: action chunking with transformers, after Zhao et al., arXiv 2304.13705, as LeRobot trains it."""
