"""What torch and JAX need to be tested under strict warnings."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their own, while they are imported: DeprecationWarnings of Python's and of theirs
    import jax  # noqa: F401
    import torch
    from torch.func import jvp

    jvp(lambda x: 2.0 * x, (torch.zeros(1),), (torch.zeros(1),))
