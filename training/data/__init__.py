"""Utterances made into training batches."""
