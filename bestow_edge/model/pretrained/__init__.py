"""Checkpoints of other projects: FastConformer encoders and decoder-only LLMs as parts of a model of ours."""
