"""The speech side of one stream: one file for each kind of encoder."""
