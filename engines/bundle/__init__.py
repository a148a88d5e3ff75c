"""Bundles: opening, staging, publishing and verifying them."""
