"""Speech encoders in PyTorch: a file for each kind."""
