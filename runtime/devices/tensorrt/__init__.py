"""TensorRT engines: built from a bundle's graphs, kept for one machine, run as graphs. For TensorRT 10 and 11.

Not yet run on hardware: tests use a fake `tensorrt` module that has exactly the names of 10.16 and of 11.4 and whose
engines are onnxruntime sessions on the CPU.
"""
