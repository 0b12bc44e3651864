"""Many machines: pictures in object storage, and a Ray cluster that upscales them."""
