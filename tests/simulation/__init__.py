"""Whole runs on simulated networks."""
