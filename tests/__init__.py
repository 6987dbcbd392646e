"""Tests: laws for whole families, examples a module, simulations and real runs."""
