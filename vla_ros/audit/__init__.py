"""Proof that nothing in an inference waits for the device."""
