"""The workshop: maps, losses, regularizers, surrogates of the training problem, and their solvers."""
