"""A covariance that is singular up to rounding has a Cholesky factor on every processor.

For: diffusers 0.42.1, HeliosPyramidPipeline and Helios' modular blocks (``sample_block_noise``). The noise of a block
of four pixels has ones on the diagonal and -1/3 beside it, so its least eigenvalue is 1 - 3/3 = 0. Their 1e-8 on the
diagonal is lost in fp32, so the last pivot is what the processor's rounding leaves of zero: where that is not above
zero, the call ends in "linalg.cholesky: the input is not positive-definite".
May go: when diffusers adds what fp32 can hold, or writes the factor down.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_ROUNDINGS = 32  # the sums of a factor of that size, and the rounding of the entries themselves


@contextlib.contextmanager
def singular_covariance() -> Iterator[None]:
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

    torch.linalg.cholesky = cholesky
    try:
        yield
    finally:
        torch.linalg.cholesky = theirs


def _raised(matrix: Any) -> Any:
    """``matrix`` (..., n, n) with its diagonal raised by some roundings of its largest entry there."""
    import torch

    diagonal = torch.diagonal(matrix, dim1=-2, dim2=-1)
    rounding = torch.finfo(matrix.dtype).eps * diagonal.abs().amax(-1, keepdim=True)
    return matrix + torch.diag_embed((rounding * _ROUNDINGS).expand_as(diagonal))
