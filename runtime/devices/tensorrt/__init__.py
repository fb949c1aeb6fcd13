"""TensorRT engines: built from a bundle's graphs, kept for one machine, run as graphs. Not yet run on hardware."""
