"""Training: recipe and photographs in, generator out."""
