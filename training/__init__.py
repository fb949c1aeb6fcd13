"""Training: manifests -> examples with wait-k masks -> checkpoint. Needs the extra `train`."""
