"""Results set against each other, and against what others published."""
