"""Teleoperation from a terminal."""
