"""Networks as a service: a local server with a page and an HTTP API, Triton model repositories."""
