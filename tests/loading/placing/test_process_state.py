# SPDX-License-Identifier: MIT
"""What a load changes for the whole process is set back before the next one."""

from __future__ import annotations

import logging
import os
import unittest
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from localai_diffusers.errors import BackendError
from localai_diffusers.loading import pipelines
from localai_diffusers.loading.placing import process_state
from localai_diffusers.settings import Settings
from tests.support import SHAPES_MODEL, load, new_job, spec_of
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

    def test_the_threads_are_the_serving_models_and_the_machines_without_a_word(self) -> None:
        process_state.reset()
        usual = torch.get_num_threads()
        self.addCleanup(torch.set_num_threads, usual)

        def load(**fields: Any) -> None:  # not the tests' own, which sets a number of threads first
            pipelines.prepare(spec_of(SHAPES_MODEL, **fields), Settings(), new_job())()

        load(Threads=usual + 1)
        for refused in ({"Options": ["num_inferense_steps:3"]}, {"SchedulerType": "warp"}):
            with self.assertRaises(BackendError):
                load(Threads=usual + 2, **refused)
        self.assertEqual(torch.get_num_threads(), usual + 1)
        process_state.reset()  # as the engine does between two models
        load()
        self.assertEqual(torch.get_num_threads(), usual)


if __name__ == "__main__":
    unittest.main()
