"""The pages that a person sees in a browser: jobs, runs and logs, read-only."""
