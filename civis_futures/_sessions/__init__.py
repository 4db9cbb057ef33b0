"""State that outlives a process: found by name, held by one pool. No pool knows of it."""
