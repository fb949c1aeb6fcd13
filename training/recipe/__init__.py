"""The fields of a recipe and their checks."""
