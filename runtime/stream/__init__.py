"""One stream of audio and its texts."""
