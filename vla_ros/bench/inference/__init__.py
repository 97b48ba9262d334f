"""``vla_ros bench``: how fast a policy is, beside its yardsticks."""
