"""Pruned checkpoints in the model's own format."""
