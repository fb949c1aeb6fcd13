"""Quality and latency scores of finished utterances."""
