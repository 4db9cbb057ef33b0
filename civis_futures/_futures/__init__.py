"""What users hold and see: futures, their logs, how they are shown and waited for."""
