"""The modules that graphs are traced from: one file for each kind."""
