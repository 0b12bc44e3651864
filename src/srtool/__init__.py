"""srtool: perceptual x4 super-resolution from PyTorch to a certified, fast engine."""

from srtool.version import __version__ as __version__
