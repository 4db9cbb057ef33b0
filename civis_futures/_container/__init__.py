"""What workers run in: containers and templates, and the official images."""
