"""Policies: what turns an observation into a chunk of actions."""
