"""Training data: photographs, the packed file they may be kept in, random patches of them, and the
augmentations that mix these."""
