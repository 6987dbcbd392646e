"""Networks of the user's own, written with this package's layers, with PyTorch or with JAX: `[model] python`."""
