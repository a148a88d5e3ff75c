"""LLaVA-NeXT."""
