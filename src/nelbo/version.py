"""The version of nelbo."""

__version__ = "0.1.0"
