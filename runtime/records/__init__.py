"""Golden outputs, traces of streams and their replay."""
