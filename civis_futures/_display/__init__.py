"""What people see of tasks and containers: frozen values in, text and HTML out; no futures."""
