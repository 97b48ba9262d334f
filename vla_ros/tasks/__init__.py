"""Tasks for programs above the robot: an instruction, and how it ended."""
