"""Released checkpoints: where they are, what their files say, and how they become a policy."""
