"""What to do next: events in, commands out. Pure: no clock, thread, lock or I/O."""
