"""What a load changes for the whole process is set back before the next one."""

from __future__ import annotations

import logging
import os
import unittest

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from localai_diffusers.loading import process_state
from tests.support import load
from tests.zoo import checkpoint


class ProcessStateTest(unittest.TestCase):
    def test_all_of_it_is_as_before_the_first_load(self) -> None:
        process_state.reset()
        threads, level = torch.get_num_threads(), logging.getLogger("diffusers").level
        active = _AttentionBackendRegistry.get_active_backend()[0]
        load(checkpoint("FluxPipeline"), Options=["attention_backend:_native_math"])
        torch.set_num_threads(threads + 1)
        torch.set_float32_matmul_precision("medium")
        logging.getLogger("diffusers").setLevel(logging.CRITICAL)
        os.environ["LEFT_BY_A_LOAD"] = "1"
        self.assertEqual(_AttentionBackendRegistry.get_active_backend()[0], AttentionBackendName("_native_math"))
        process_state.reset()
        self.assertEqual(_AttentionBackendRegistry.get_active_backend()[0], active)
        self.assertEqual(torch.get_num_threads(), threads)
        self.assertEqual(torch.get_float32_matmul_precision(), "highest")
        self.assertEqual(logging.getLogger("diffusers").level, level)
        self.assertNotIn("LEFT_BY_A_LOAD", os.environ)


if __name__ == "__main__":
    unittest.main()
