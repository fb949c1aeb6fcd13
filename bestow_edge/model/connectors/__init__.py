"""Where speech enters the language model: one file for each kind of connector."""
