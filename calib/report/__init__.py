"""Measuring the fidelity report."""
