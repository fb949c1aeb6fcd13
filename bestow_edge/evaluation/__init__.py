"""Quality and latency of a bundle as the field measures them. Never imports torch; scores need no model at all."""
