"""Policies that an installed LeRobot runs; nothing else in this package imports it."""
