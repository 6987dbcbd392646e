"""Other tools, read by their own readers; they are installed for it: `make test-tools`."""
