"""Runtime: engine and image files in, upscaled image files out. Works without torch."""
