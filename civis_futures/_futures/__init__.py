"""What users hold: futures and their logs, in tables, and how they are waited for."""
