"""What requests and answers consist of: the fields, their types and defaults."""
