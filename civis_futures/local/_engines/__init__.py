"""What runs can run on, by name: options, and how each engine is asked to run something."""
