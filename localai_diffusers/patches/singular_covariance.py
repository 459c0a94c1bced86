# SPDX-License-Identifier: MIT
"""A covariance that is singular up to rounding has a Cholesky factor on every processor.

For: diffusers 0.42.1, HeliosPyramidPipeline and Helios' modular blocks (``sample_block_noise``). The noise of a block
of four pixels has ones on the diagonal and -1/3 beside it, so its least eigenvalue is 1 - 3/3 = 0. Their 1e-8 on the
diagonal is lost in fp32, so the last pivot is what the processor's rounding leaves of zero: where that is not above
zero, the call ends in "linalg.cholesky: the input is not positive-definite".
May go: when diffusers adds what fp32 can hold, or writes the factor down.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from localai_diffusers.patches.kit import modules_of, replaced

_ROUNDINGS = 32  # the sums of a factor of that size, and the rounding of the entries themselves


def applies(pipeline: Any) -> bool:
    """A classic pipeline has a method that draws such noise, a modular one's blocks a function beside them."""
    places = (type(pipeline), *modules_of(pipeline))
    return any(hasattr(place, "sample_block_noise") for place in places)


def applied() -> AbstractContextManager[None]:
    """Inside the block ``torch.linalg.cholesky`` factors what is short of positive-definite by rounding alone.

    What torch can factor it factors as ever. What is not positive-definite by more still raises torch's LinAlgError.
    """
    import torch

    theirs: Any = torch.linalg.cholesky

    def cholesky(matrix: Any, **named: Any) -> Any:
        try:
            return theirs(matrix, **named)
        except torch.linalg.LinAlgError:
            return theirs(_raised(matrix), **named)

    return replaced(torch.linalg, cholesky=cholesky)


def _raised(matrix: Any) -> Any:
    """``matrix`` (..., n, n) with its diagonal raised by some roundings of its largest entry there."""
    import torch

    diagonal = torch.diagonal(matrix, dim1=-2, dim2=-1)
    rounding = torch.finfo(matrix.dtype).eps * diagonal.abs().amax(-1, keepdim=True)
    return matrix + torch.diag_embed((rounding * _ROUNDINGS).expand_as(diagonal))
