"""Training the router."""
