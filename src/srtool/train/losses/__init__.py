"""The losses: the paper's terms, perceptual networks, and which terms make an objective."""
