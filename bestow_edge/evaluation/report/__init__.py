"""Curves, pages and model cards made of scores."""
