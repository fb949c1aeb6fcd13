"""Speech spoken by espeak-ng."""
