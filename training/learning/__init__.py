"""Losses, optimisation, validation and saves."""
