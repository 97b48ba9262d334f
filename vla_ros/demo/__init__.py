"""The simulated arm that follows instructions: ``vla_ros demo``."""
