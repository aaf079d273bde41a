"""The demonstration: this repository's template and function at work on an emulated cloud."""
