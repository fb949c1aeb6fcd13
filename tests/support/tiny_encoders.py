"""The config of a small cache-aware encoder, for tests that need its sizes alone."""

from bestow_edge.core.specs.chunked import ChunkedConfig

CHUNKED = ChunkedConfig(network={"model_type": "nemotron_asr_streaming_encoder", "hidden_size": 8})
num_steps = CHUNKED.num_steps
