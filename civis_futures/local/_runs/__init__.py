"""Runs as processes of this machine: started, measured, met by faults, ended for certain."""
