"""Corpora of any size: manifests, shards and texts indexed, filtered, planned into batches, checked and counted.

Only `dataset` needs torch; the others are what `bestow-edge data` runs on.
"""
