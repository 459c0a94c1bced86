# SPDX-License-Identifier: MIT
"""A value from an option or a param arrives as plain diffusers would take it, or is refused: over all signatures."""

from __future__ import annotations

import inspect
import types
import typing
import unittest
from collections.abc import Iterator
from typing import Any, Optional, Union

import diffusers

import diffusers_dynamic_loader as loader
from localai_diffusers.errors import InvalidRequest
from localai_diffusers.pipeline.argument_values import accepted_types, check_params, fitted, is_ours
from localai_diffusers.pipeline.signatures import EMPTY, constructor_parameters, parameters_of, takes_media
from localai_diffusers.wire.values import parse_value

# What a user may write. Every kind of value that an option can have, whole and broken numbers, lists of several depths.
_WRITTEN = (
    *("3", "0", "2.0", "0.5", "true", "a text", "007", "null"),
    *("[1, 2]", "[0.5, 1]", '["a", "b"]', "[[1, 2], [3, 4]]", "[1, 2, 3, 4, 5]", "[true]"),
    *('{"a": 1}', '{"1": "b"}', '[{"role": "user"}]', "latent", "first", "vanilla"),
)
# A list of these is nothing that can be written.
_LIBRARIES = ("torch.", "PIL.", "diffusers.")


def parameter(annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def fit(value: Any, annotation: Any, text: str | None = None, default: Any = None) -> Any:
    return fitted("x", value, text, parameter(annotation, default), "X")


def is_a(value: Any, annotation: Any) -> bool:
    """Whether ``value`` is what the annotation says, read strictly: no int for a float, no list for a tuple."""
    origin, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(is_a(value, kind) for kind in inner)
    if origin is typing.Literal:
        return value in inner
    if annotation in (Any, EMPTY):
        return True
    if annotation is type(None) or annotation is None:
        return value is None
    if not isinstance(origin, type):
        return False
    if origin in (int, float):
        return type(value) is origin
    if not isinstance(value, origin):
        return False
    if isinstance(value, dict) and inner:
        return all(is_a(key, inner[0]) and is_a(part, inner[1]) for key, part in value.items())
    if origin is tuple and len(inner) > 1 and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(is_a, value, inner))
    kind = typing.Union[inner] if inner and origin is not tuple else inner[0] if inner else Any  # noqa: UP007
    return not isinstance(value, (list, tuple)) or all(is_a(part, kind) for part in value)


def every_parameter() -> Iterator[tuple[str, inspect.Parameter]]:
    """Those of all calls and constructors of the catalogue that an option can say, with the class's name."""
    for name, cls in loader.get_pipeline_registry().items():
        call = parameters_of(cls)
        yield from ((name, known) for key, known in call.items() if not is_ours(key) and not takes_media(key, call))
        yield from ((name, known) for known in constructor_parameters(cls).values())


class EverySignatureTest(unittest.TestCase):
    def test_what_is_written_arrives_as_the_annotation_says_or_is_refused(self) -> None:
        wrong, tried = [], 0
        for name, known in every_parameter():
            for text in _WRITTEN:
                value = parse_value(text)
                try:
                    got = fitted(known.name, value, text, known, name)
                except InvalidRequest:
                    continue
                tried += 1
                if not (got is None or is_a(got, known.annotation)):
                    wrong.append((name, known.name, str(known.annotation), text, got))
        self.assertEqual(wrong, [])
        self.assertGreater(tried, 10_000)

    def test_every_default_can_be_written_and_comes_back_as_it_is(self) -> None:
        """A number, a text, a list of those: what JSON can say of a default is the default again."""
        import json

        wrong = []
        for name, known in every_parameter():
            if known.default is EMPTY or not isinstance(known.default, (bool, int, float, str, list, tuple, dict)):
                continue
            said = json.loads(json.dumps(known.default))
            got = fitted(known.name, said, None, known, name)
            if got != known.default and list(got) != list(known.default):
                wrong.append((name, known.name, known.default, got))
        self.assertEqual(wrong, [])

    def test_no_parameter_that_takes_plain_values_refuses_them_all(self) -> None:
        for name, known in every_parameter():
            if not accepted_types(known) or any(word in str(known.annotation) for word in _LIBRARIES):
                continue
            taken = 0
            for text in _WRITTEN:
                try:
                    taken += fitted(known.name, parse_value(text), text, known, name) is not None
                except InvalidRequest:
                    pass
            self.assertTrue(taken, (name, known.name, known.annotation))


class ValuesTest(unittest.TestCase):
    def test_types_come_from_annotations_of_every_spelling(self) -> None:
        for annotation in (int | None, Optional[int], Union[int, None]):  # noqa: UP007, UP045
            self.assertEqual(accepted_types(parameter(annotation)), (int,))
        self.assertEqual(accepted_types(parameter(diffusers.DiffusionPipeline)), ())
        self.assertEqual(set(accepted_types(parameter(float | list[float]))), {float, list})

    def test_without_an_annotation_the_default_tells(self) -> None:
        self.assertEqual(accepted_types(parameter(EMPTY, 5)), (int,))
        self.assertEqual(accepted_types(parameter(EMPTY)), ())
        self.assertEqual(fit(2.0, EMPTY, default=5), 2)
        self.assertEqual(fit([1], EMPTY), [1])

    def test_a_number_becomes_the_number_that_is_wanted_where_it_is_the_same(self) -> None:
        for value, annotation, expected in (
            (1, float, 1.0),
            (30.0, int, 30),
            (1, bool, True),
            ([1, 0.5], list[float], [1.0, 0.5]),
        ):
            self.assertEqual(repr(fit(value, annotation)), repr(expected))
        for value, annotation in ((2.5, int), (True, int), (2, bool), ("x", float)):
            with self.assertRaisesRegex(InvalidRequest, "wrong type: X takes"):
                fit(value, annotation)

    def test_a_list_is_a_tuple_where_one_is_wanted_of_its_length(self) -> None:
        self.assertEqual(fit([1024, 512], tuple[int, int]), (1024, 512))
        self.assertEqual(fit([1, 2, 3], tuple[int, ...]), (1, 2, 3))
        self.assertEqual(fit([16, 16], tuple[int] | None), (16, 16))
        with self.assertRaisesRegex(InvalidRequest, r"X takes tuple\[int, int\]"):
            fit([1024], tuple[int, int])

    def test_a_text_is_what_was_written(self) -> None:
        self.assertEqual(fit(7, str | list[str], "007"), "007")
        self.assertEqual(fit("dog", list[str]), ["dog"])
        self.assertEqual(fit(["a"], str | list[str]), ["a"])

    def test_what_no_text_can_say_is_refused(self) -> None:
        import torch

        for annotation in (torch.Tensor | None, list[torch.Tensor], diffusers.DDIMScheduler):
            with self.assertRaisesRegex(InvalidRequest, "cannot be said in text: X takes a"):
                fit(5, annotation)
        self.assertIsNone(fit(None, torch.Tensor | None))

    def test_words_of_a_set_are_its_members(self) -> None:
        self.assertEqual(fit("first", typing.Literal["first", "last"]), "first")
        with self.assertRaisesRegex(InvalidRequest, "'first' or 'last'"):
            fit("middle", typing.Literal["first", "last"])


class ParamsTest(unittest.TestCase):
    TAKEN = parameters_of(diffusers.StableDiffusionPipeline)

    def test_a_requests_param_must_be_an_argument(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, r"params\['etaa'\] is no argument of X \(did you mean 'eta'\?\)"):
            check_params({"etaa": 1}, {}, self.TAKEN, "X")

    def test_what_the_server_sets_itself_is_no_param(self) -> None:
        for name in ("callback_on_step_end", "output_type", "return_dict", "generator"):
            with self.assertRaisesRegex(InvalidRequest, f"{name}.*set by the server"):
                check_params({name: "x"}, {}, self.TAKEN, "X")

    def test_one_text_for_a_list_of_texts_is_a_list_of_one(self) -> None:
        taken = parameters_of(diffusers.BlipDiffusionPipeline)
        self.assertEqual(
            check_params({"source_subject_category": "dog"}, {}, taken, "X"), {"source_subject_category": ["dog"]}
        )

    def test_paths_of_media_stay_what_they_are(self) -> None:
        taken = parameters_of(diffusers.WanVACEPipeline)
        for paths in ("a.png", ["a.png", "b.png"]):
            self.assertEqual(check_params({"reference_images": paths}, {}, taken, "X"), {"reference_images": paths})

    def test_a_param_that_looks_like_a_number_is_the_text_that_was_sent(self) -> None:
        taken = parameters_of(diffusers.FluxPipeline)
        self.assertEqual(check_params({"prompt_2": 7}, {"prompt_2": "007"}, taken, "X"), {"prompt_2": "007"})


if __name__ == "__main__":
    unittest.main()
