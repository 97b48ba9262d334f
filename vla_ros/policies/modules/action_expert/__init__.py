"""Action experts."""
