"""Examples and edge cases, a file a module."""
