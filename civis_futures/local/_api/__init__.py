"""The platform's API: what each endpoint does, over the store."""
