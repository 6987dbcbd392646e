"""Real processes and sockets, started as users start them."""
