"""Where the platform listens, as whom it is asked for there, and by which certificate."""
