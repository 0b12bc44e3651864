"""Mixed precision: where float16 fails, and the file that mends it."""
