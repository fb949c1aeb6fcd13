"""Models run over test sets, and their speed."""
