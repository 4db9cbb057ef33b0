"""Where runs run: what every place can do, and the one that runs them as processes here."""
