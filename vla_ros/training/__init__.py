"""From bags to a policy directory."""
