"""From what lies on disk or on a hub to a policy directory: sources and weights of every family."""
