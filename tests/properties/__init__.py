"""The laws, applied by Hypothesis to every member of every family."""
