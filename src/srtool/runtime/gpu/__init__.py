"""Tiles through an NVIDIA GPU: the scheduler, its slots, their layout, and CUDA itself."""
