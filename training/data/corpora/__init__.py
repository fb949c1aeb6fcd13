"""Corpora of any size: manifests, shards and texts are indexed, filtered, planned into batches, checked and counted."""
