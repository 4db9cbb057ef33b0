"""What is kept for the user from process to process: files in the cache folder."""
