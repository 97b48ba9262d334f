"""The operator's page: ``vla_ros view``."""
