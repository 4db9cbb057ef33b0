"""Runs as processes of this machine: started, metered, struck by faults, ended for certain."""
