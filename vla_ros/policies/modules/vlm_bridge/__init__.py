"""Bridges from vision-language models to the action expert."""
