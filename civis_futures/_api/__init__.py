"""The platform's API: requests, when they may go, and what its answers say. No policy."""
