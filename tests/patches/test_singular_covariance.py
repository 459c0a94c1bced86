# SPDX-License-Identifier: MIT
"""A covariance that is singular up to rounding has a factor, so Helios draws its noise on every processor."""

from __future__ import annotations

import unittest
from typing import Any

from localai_diffusers import patches
from localai_diffusers.patches import singular_covariance
from tests.zoo import checkpoint


def covariance(gamma: float) -> Any:
    """Helios' covariance of four pixels; its least eigenvalue is 1 - 3 gamma."""
    import torch

    return torch.eye(4) * (1 + gamma) - torch.ones(4, 4) * gamma


class SingularCovarianceTest(unittest.TestCase):
    def test_what_is_negative_by_rounding_has_a_factor(self) -> None:
        import torch

        matrix = covariance(1 / 3 + 2e-7)  # below zero by more than any processor rounds away
        with self.assertRaises(torch.linalg.LinAlgError):
            torch.linalg.cholesky(matrix)
        with singular_covariance.applied():
            factor = torch.linalg.cholesky(matrix)
        self.assertLess((factor @ factor.T - matrix).abs().max().item(), 1e-5)

    def test_what_torch_can_factor_is_torchs(self) -> None:
        import torch

        with singular_covariance.applied():
            ours = torch.linalg.cholesky(covariance(0.2))
        self.assertTrue(torch.equal(ours, torch.linalg.cholesky(covariance(0.2))))

    def test_what_is_no_covariance_is_still_refused(self) -> None:
        import torch

        with singular_covariance.applied(), self.assertRaises(torch.linalg.LinAlgError):
            torch.linalg.cholesky(covariance(0.34))

    def test_helios_draws_its_noise_where_rounding_leaves_less_than_zero(self) -> None:
        """As on a processor whose rounding leaves less than zero: a gamma that does on every one."""
        import diffusers

        pipeline = diffusers.DiffusionPipeline.from_pretrained(checkpoint("HeliosPyramidPipeline"))
        pipeline.scheduler.register_to_config(gamma=1 / 3 + 2e-7)
        with patches.during_calls(pipeline):
            noise = pipeline.sample_block_noise(1, 2, 1, 8, 8)
        self.assertEqual(tuple(noise.shape), (1, 2, 1, 8, 8))
        blocks = noise.reshape(2, 4, 2, 4, 2).sum((2, 4))  # the four of a block cancel out: the covariance's zero
        self.assertLess(blocks.abs().max().item(), 0.05)


if __name__ == "__main__":
    unittest.main()
