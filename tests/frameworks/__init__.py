"""Networks of PyTorch and JAX; needs both, see `make test-frameworks`."""
