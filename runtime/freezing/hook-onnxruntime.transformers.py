"""Hook of onnxruntime's tools for transformers, which would take in the whole of PyTorch if it is installed."""

excludedimports = ["onnx", "tensorflow", "torch", "transformers"]
