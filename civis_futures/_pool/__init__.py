"""One pool at work: the manager thread and all that it performs. It knows of no session."""
