"""Options that several commands take, and their types."""
