"""Bags of one robot, message by message, for replay and training alike."""
