"""Graphs rewritten for libraries that take less."""
