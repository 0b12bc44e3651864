"""TensorRT plans: what a GPU needs, what an edition of the builder can, built and refitted."""
