"""Modules that live inside other frameworks and import what those need."""
