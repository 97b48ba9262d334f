"""A replay as one HTML page for people."""
