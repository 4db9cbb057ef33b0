"""What client and worker both need to know to pickle for each other; it travels with the worker."""
