"""Images: reading and writing, colour, MATLAB's resize, data sets. One reader for all stages."""
