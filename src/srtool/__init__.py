"""srtool: perceptual x4 super-resolution from PyTorch to a certified, fast engine."""

__version__ = "0.1.0"
