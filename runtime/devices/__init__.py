"""Where graphs run: one file for each device."""
