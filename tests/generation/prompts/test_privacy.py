# SPDX-License-Identifier: MIT
"""No line of a library holds a prompt, at any level: neither a log record, nor a warning, nor what is printed."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import unittest
import warnings
from typing import Any
from unittest import mock

from localai_diffusers import privacy
from tests.support import SHAPES_MODEL, Backend, generate, load
from tests.zoo import checkpoint

library = logging.getLogger("diffusers.pipelines.some_library")
WORDS = ("zanzibar", "quokka", "marzipan")
LONG = "a red circle " * 40 + " ".join(WORDS)


class ServerTest(unittest.TestCase):
    """diffusers and transformers warn of a truncated prompt with its words: SD's own lines, through a real server."""

    def test_a_truncated_prompt_is_in_no_line(self) -> None:
        for level in ("DEBUG", "WARNING"):
            with Backend(LOCALAI_DIFFUSERS_LOG_LEVEL=level, LOG_LEVEL=level) as backend:
                backend.load(SHAPES_MODEL)
                backend.image(LONG, negative_prompt=LONG, width=64, height=64, step=2)
                self.assertIn("prompt cut at 77 of", backend.result.message)
                said = backend.log.casefold()
            self.assertIn("was truncated because clip can only handle sequences up to", said, "the library warns")
            self.assertEqual([word for word in WORDS if word in said], [], level)


class LibraryTest(unittest.TestCase):
    """A library that quotes the prompt in each way that there is, from within the call."""

    def said(self, speak: Any) -> str:
        model, heard = load(checkpoint("StableDiffusionPipeline")), io.StringIO()
        handler = logging.StreamHandler(heard)
        real = type(model.pipeline).encode_prompt

        def encode(pipeline: Any, prompt: str, *arguments: Any, **named: Any) -> Any:
            speak(prompt)
            return real(pipeline, prompt, *arguments, **named)

        self.addCleanup(library.setLevel, library.level)
        library.setLevel(logging.DEBUG)  # whatever other tests said of diffusers' loggers
        logging.captureWarnings(True)  # as the server does
        self.addCleanup(logging.captureWarnings, False)
        for logger in (library, logging.getLogger("py.warnings")):
            logger.addHandler(handler)
            self.addCleanup(logger.removeHandler, handler)
        with (
            mock.patch.object(type(model.pipeline), "encode_prompt", encode),
            contextlib.redirect_stdout(heard),
            contextlib.redirect_stderr(heard),
        ):
            generate(model, f"a {' '.join(WORDS)}", width=32, height=32, step=1, seed=1)
        self.assertFalse(any(word in heard.getvalue().casefold() for word in WORDS), heard.getvalue())
        return heard.getvalue()

    def test_a_record_keeps_what_its_source_says(self) -> None:
        said = self.said(lambda prompt: library.warning(f"the part that was cut: {prompt[-12:]} of 77 tokens"))
        self.assertIn("the part that was cut: … of 77 tokens", said)
        self.assertIn("cut: %s", self.said(lambda prompt: library.error("cut: %s", prompt)))
        self.assertIn("left out", self.said(lambda prompt: library.error(prompt.upper())))

    def test_a_record_that_quotes_nothing_is_as_it_was(self) -> None:
        self.assertIn("took 3 s on cpu:0", self.said(lambda _prompt: library.warning(f"took {3} s on {'cpu:0'}")))

    def test_a_traceback_that_quotes_it_is_left_out(self) -> None:
        def speak(prompt: str) -> None:
            try:
                raise ValueError(f"cannot read {prompt}")
            except ValueError:
                library.exception("it failed")

        self.assertIn("it failed", self.said(speak))

    def test_warnings_and_printed_lines(self) -> None:
        for speak in (
            lambda prompt: warnings.warn(f"cut: {prompt}", stacklevel=1),
            lambda prompt: print("read", prompt),
            lambda prompt: print(prompt, file=sys.stderr),
            lambda prompt: sys.stderr.write(prompt),  # without the end of a line
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                self.assertIn("left out", self.said(speak))
        self.assertIn("loading 5 parts", self.said(lambda _prompt: print("loading 5 parts")))

    def test_afterwards_all_is_as_it_was(self) -> None:
        streams = sys.stdout, sys.stderr
        with privacy.confidential(["a quokka", None, 3]):
            self.assertTrue(privacy.quotes("the QUOKKA"))
            self.assertFalse(privacy.quotes("77 of it"))
        self.assertFalse(privacy.quotes("the QUOKKA"))
        self.assertEqual((sys.stdout, sys.stderr), streams)


if __name__ == "__main__":
    unittest.main()
