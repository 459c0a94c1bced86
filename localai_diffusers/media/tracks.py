# SPDX-License-Identifier: MIT
"""A waveform in memory; apart from the readers and writers, so that pictures need no PyAV."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class AudioTrack:
    """A waveform: float32 samples of shape (channels, n), nominally -1..1, and the rate in Hz."""

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return self.samples.shape[1] / self.rate
