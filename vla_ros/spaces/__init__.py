"""What the numbers of a policy's state and action vectors mean on a robot."""
