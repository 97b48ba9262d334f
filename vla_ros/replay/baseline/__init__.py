"""Results that are stored, and what is not as it was stored."""
