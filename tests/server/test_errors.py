# SPDX-License-Identifier: MIT
"""The one table from error to gRPC status, and texts that the core does not mistake for signals."""

from __future__ import annotations

import unittest

import grpc

from localai_diffusers import errors


def every_error(base: type = errors.BackendError) -> list[type]:
    return [base, *(below for kind in base.__subclasses__() for below in every_error(kind))]


def made(kind: type) -> BaseException:
    """An error of this class."""
    return kind("loaded", "requested") if kind is errors.ModelMismatch else kind("x")


class StatusTest(unittest.TestCase):
    def test_every_error_has_a_status_that_grpc_knows(self) -> None:
        for kind in every_error():
            self.assertTrue(hasattr(grpc.StatusCode, errors.status_name(made(kind))), kind)

    def test_only_a_missing_model_is_failed_precondition_and_nothing_is_unavailable(self) -> None:
        """The router drops the replica on the former and evicts the model on the latter."""
        names = {kind: errors.status_name(made(kind)) for kind in every_error()}
        self.assertEqual(
            [kind for kind, name in names.items() if name == "FAILED_PRECONDITION"], [errors.ModelNotLoaded]
        )
        self.assertNotIn("UNAVAILABLE", names.values())

    def test_the_codes_are_those_of_the_contract(self) -> None:
        expected = {
            errors.InvalidRequest: "INVALID_ARGUMENT",
            errors.OutOfMemory: "RESOURCE_EXHAUSTED",
            errors.Cancelled: "CANCELLED",
            errors.ModelMismatch: "NOT_FOUND",
            errors.OutputDiskFull: "RESOURCE_EXHAUSTED",
            errors.GenerationFailed: "INTERNAL",
            errors.NotSupported: "UNIMPLEMENTED",
        }
        for kind, name in expected.items():
            self.assertEqual(errors.status_name(made(kind)), name)

    def test_a_foreign_error_is_internal_with_its_class_before_the_text(self) -> None:
        error = KeyError("unet")
        self.assertEqual(errors.status_name(error), "INTERNAL")
        self.assertEqual(errors.status_message(error), "KeyError: 'unet'")


class TextTest(unittest.TestCase):
    def test_the_words_that_the_core_takes_as_signals_never_pass(self) -> None:
        for words in ("Model Not Loaded", "UNIMPLEMENTED", "connection refused", "Connection reset", "no such host"):
            for error in (ValueError(f"a {words} b"), errors.LoadError(f"a {words} b")):
                self.assertNotIn(words.lower(), errors.status_message(error).lower())

    def test_only_our_own_missing_model_says_so(self) -> None:
        self.assertIn("model not loaded", errors.status_message(errors.ModelNotLoaded()))

    def test_a_text_is_one_line_of_bounded_length(self) -> None:
        text = errors.one_line("a\n  b\t" + "c" * 9999)
        self.assertTrue(text.startswith("a b c"))
        self.assertLessEqual(len(text), errors.MAX_MESSAGE_LENGTH)

    def test_an_error_without_text_is_named(self) -> None:
        self.assertEqual(errors.one_line(MemoryError()), "MemoryError")


class OutOfMemoryTest(unittest.TestCase):
    def test_torchs_own_errors_are_recognized(self) -> None:
        import torch

        with self.assertRaises(RuntimeError) as caught:
            torch.empty(2**58)
        self.assertTrue(errors.is_out_of_memory(caught.exception))
        self.assertTrue(errors.is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory")))
        self.assertTrue(errors.is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")))

    def test_other_errors_are_not(self) -> None:
        self.assertFalse(errors.is_out_of_memory(ValueError("out of memory")))
        self.assertFalse(errors.is_out_of_memory(RuntimeError("shape mismatch")))


if __name__ == "__main__":
    unittest.main()
