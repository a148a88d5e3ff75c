"""Graphs of the decoder, written node by node."""
