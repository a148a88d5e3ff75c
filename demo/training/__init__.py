"""What the demo models are taught with: lessons, their batches and losses."""
