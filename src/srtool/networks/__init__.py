"""Networks: the generator, weights of any origin, and the form in which they are deployed."""
