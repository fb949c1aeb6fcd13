"""The text side of one stream: one file for each kind of connector."""
