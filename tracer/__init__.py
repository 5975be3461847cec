"""tattle tells on programs that phone home."""

__version__ = "0.1.0"
