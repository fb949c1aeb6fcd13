"""Traced graphs made faster, smaller or fit for a target."""
