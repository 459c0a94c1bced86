# SPDX-License-Identifier: MIT
"""ModelOptions as the core sends it -> LoadSpec: options typed and sorted, bad fields named."""

from __future__ import annotations

import unittest
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import backend_pb2
from localai_diffusers.errors import InvalidRequest
from localai_diffusers.wire.load_spec import LoadSpec, from_model_options, split_option
from localai_diffusers.wire.values import parse_value


def spec(*options: str, **fields: Any) -> LoadSpec:
    return from_model_options(backend_pb2.ModelOptions(Model="owner/name", Options=options, **fields))


class ValueTest(unittest.TestCase):
    def test_values_get_the_type_that_they_look_like(self) -> None:
        cases = {
            "7": 7,
            "-1": -1,
            "+3": 3,
            "1.5": 1.5,
            ".5": 0.5,
            "1e-4": 1e-4,
            "2E3": 2000.0,
            "true": True,
            "False": False,
            "null": None,
            "'1'": "1",
            '"a:b"': "a:b",
            "[1, 2]": [1, 2],
            '{"a": 1.5}': {"a": 1.5},
            "bf16": "bf16",
            "": "",
        }
        for text, expected in cases.items():
            self.assertEqual((type(parse_value(text)), parse_value(text)), (type(expected), expected), text)

    def test_what_yaml_or_float_would_mangle_stays_text(self) -> None:
        for text in (
            "off",
            "on",
            "yes",
            "no",
            "1:30",
            "nan",
            "inf",
            "infinity",
            "1_000",
            "0x10",
            "1e999",
            "١٢",
            "v1.5",
            "9" * 30,
        ):
            self.assertEqual(parse_value(text), text)

    def test_an_integer_stays_an_integer(self) -> None:
        """The incumbent made every integer a float, which max_sequence_length refuses."""
        self.assertIs(type(spec("max_sequence_length:256").call_arguments["max_sequence_length"]), int)

    def test_broken_json_is_refused_with_its_text(self) -> None:
        for text in ("[1,", "x:[1 2]", "x:{'a': 1}"):
            option = text if text.startswith("x:") else f"x:{text}]"
            with self.assertRaisesRegex(InvalidRequest, "not valid JSON"):
                spec(option)

    def test_json_nested_without_end_is_refused_and_crashes_nothing(self) -> None:
        with self.assertRaises(InvalidRequest):
            spec("x:" + "[" * 30_000 + "]" * 30_000)

    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40))
    def test_any_option_is_taken_or_refused_as_ours(self, text: str) -> None:
        try:
            spec(text)
        except InvalidRequest:
            pass

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_a_float_comes_back_as_it_was_written(self, number: float) -> None:
        self.assertEqual(float(parse_value(repr(number))), number)


class OptionsTest(unittest.TestCase):
    def test_the_split_is_at_the_first_colon(self) -> None:
        for text, expected in (
            ("config:https://hf.co/a/b", ("config", "https://hf.co/a/b")),
            (r"vae:C:\models\x", ("vae", r"C:\models\x")),
            ("start:1:30", ("start", "1:30")),
            (" eta : 0.5 ", ("eta", "0.5")),
        ):
            self.assertEqual(split_option(text), expected)

    def test_each_option_goes_to_its_group(self) -> None:
        found = spec("variant:fp16", "vae_tiling:true", "eta:0.5", "config:a/b")
        self.assertEqual((found.options.variant, found.options.config, found.options.vae_tiling), ("fp16", "a/b", True))
        self.assertEqual(dict(found.call_arguments), {"eta": 0.5})

    def test_other_spellings_mean_the_same(self) -> None:
        found = spec("cfg_scale:6", "steps:9", "cpu_offload:model", "dtype:bf16")
        self.assertEqual((found.options.guidance_scale, found.options.num_inference_steps), (6, 9))
        self.assertEqual((found.options.offload, found.dtype, found.call_arguments), ("model", "bf16", {}))

    def test_what_was_written_for_an_argument_is_kept(self) -> None:
        found = spec("prompt:007", "eta:1e-4", EngineArgs='{"eta": 2, "strength": 0.5}')
        self.assertEqual((found.call_arguments["prompt"], found.argument_texts["prompt"]), (7, "007"))
        self.assertEqual(dict(found.argument_texts), {"prompt": "007", "eta": "1e-4"})
        self.assertEqual(found.lenient, {"strength"})

    def test_a_text_without_a_colon_is_a_flag_and_noted(self) -> None:
        found = spec("vae_tiling", "  ")
        self.assertIs(found.options.vae_tiling, True)
        self.assertEqual(len(found.notes), 1)
        self.assertIn("vae_tiling", found.notes[0])

    def test_the_last_of_two_options_wins_and_options_win_over_engine_args(self) -> None:
        found = spec("eta:1", "eta:2", EngineArgs='{"eta": 3, "strength": 0.5, "variant": "fp16"}')
        self.assertEqual(dict(found.call_arguments), {"eta": 2, "strength": 0.5})
        self.assertEqual(found.options.variant, "fp16")

    def test_engine_args_must_be_a_json_object(self) -> None:
        for text in ("[1]", "3", "{", "eta: 3"):
            with self.assertRaisesRegex(InvalidRequest, "EngineArgs"):
                spec(EngineArgs=text)
        self.assertEqual(dict(spec(EngineArgs=" ").call_arguments), {})


class FieldsTest(unittest.TestCase):
    def test_dtype_comes_from_the_option_before_the_field(self) -> None:
        self.assertEqual(spec("torch_dtype:bf16", DType="float16").dtype, "bf16")
        self.assertEqual(spec(DType="torch.float16").dtype, "float16")
        for unset in (spec(), spec("torch_dtype:auto"), spec(DType="auto")):
            self.assertEqual(unset.dtype, "")

    def test_a_cfg_scale_of_0_means_unset_and_float32_is_brought_back(self) -> None:
        self.assertIsNone(spec(CFGScale=0).guidance)
        self.assertEqual(spec(CFGScale=1.1).guidance, 1.1)

    def test_the_legacy_video_type_means_the_models_own_class_and_64_frames(self) -> None:
        found = spec(PipelineType="VideoDiffusionPipeline")
        self.assertEqual(
            (found.pipeline_type, found.default_frames, dict(found.call_arguments)), ("DiffusionPipeline", 64, {})
        )
        self.assertIsNone(spec(PipelineType="WanPipeline").default_frames)

    def test_loras_come_with_their_scales_and_1_where_none_is_given(self) -> None:
        found = spec(LoraAdapter="one", LoraScale=0.5, LoraAdapters=["two", "three"], LoraScales=[0.25])
        self.assertEqual(found.loras, (("one", 0.5), ("two", 0.25), ("three", 1.0)))
        self.assertEqual(spec(LoraAdapter="one").loras, (("one", 1.0),))

    def test_several_control_nets_are_split_at_commas(self) -> None:
        self.assertEqual(spec(ControlNet="a, b,,").controlnets, ("a", "b"))

    def test_noise_of_language_models_is_no_matter(self) -> None:
        found = spec(
            ContextSize=1024, NBatch=512, NGPULayers=9999999, MMap=True, Seed=7, FlashAttention="auto", Threads=4
        )
        self.assertEqual((found.threads, found.call_arguments, found.notes), (4, {}, ()))

    def test_bad_fields_are_refused_by_name(self) -> None:
        cases: dict[str, dict[str, Any]] = {
            "Threads": {"Threads": -1},
            "CLIPSkip": {"CLIPSkip": -2},
            "MainGPU": {"MainGPU": "first"},
            "CFGScale": {"CFGScale": -1},
            "LoraScales": {"LoraScales": [1.0]},
            "PipelineType": {"PipelineType": "a\0b"},
            "ControlNet": {"ControlNet": "x" * 70_000},
        }
        for name, fields in cases.items():
            with self.assertRaisesRegex(InvalidRequest, name):
                spec(**fields)
        for number in (float("nan"), float("inf")):
            with self.assertRaisesRegex(InvalidRequest, "CFGScale"):
                spec(CFGScale=number)

    def test_an_empty_model_is_refused(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "Model is empty"):
            from_model_options(backend_pb2.ModelOptions(Model=" "))


if __name__ == "__main__":
    unittest.main()
