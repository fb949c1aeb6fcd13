"""TensorRT engines: built from a bundle's graphs, kept by machine, run as graphs. Valid on TensorRT 10 and 11.

Not yet run on hardware: everything here was run with a fake `tensorrt` module whose names are exactly those of 10.16
and of 11.4, and whose engines are onnxruntime sessions on the CPU.
"""
