"""What replays say about a policy, and of two which is better."""
