"""pi0 and pi0.5: one network with two kinds of conditioning, as LeRobot and openpi train it."""
