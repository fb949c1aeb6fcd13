"""Curves, HTML reports and model cards."""
