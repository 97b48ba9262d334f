"""Small helpers shared by the policies."""
