"""Graphs held against the stock model."""
