"""Parts a policy is built from."""
