"""Hook of the bundles of the Hub: huggingface_hub stays out, which doubles a program; `--hidden-import` takes it in."""

excludedimports = ["huggingface_hub"]
