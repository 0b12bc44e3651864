"""Inference libraries, one file each: a backend, and the session that it opens."""
