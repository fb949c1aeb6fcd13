"""Text, captions and progress on the terminal."""
