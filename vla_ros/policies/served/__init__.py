"""Policies that run where they came from, reached by the websocket protocol of openpi's policy server."""
