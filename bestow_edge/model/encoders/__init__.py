"""Speech encoders in PyTorch: a file for each `model_type` of transformers, with `build` and `encode`."""
