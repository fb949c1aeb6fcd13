"""Hook of the microphone, which imports sounddevice at its first use."""

hiddenimports = ["sounddevice"]
