"""Weight files and their layout."""
