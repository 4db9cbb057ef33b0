"""What users call: the executor, its options, how a call is submitted and a pool opened."""
