"""The build as a function."""
