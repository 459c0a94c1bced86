# SPDX-License-Identifier: MIT
"""Device, dtype and offload: obeyed where they are asked for, chosen by rule where not, an error where impossible.

These machines have no accelerator; what would be chosen on one is asked of the rules with torch's answers replaced.
"""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers import DiffusionPipeline

from localai_diffusers.checkpoint.model_files import ModelFacts, WeightFile, folder_facts
from localai_diffusers.errors import InvalidRequest, LoadError
from localai_diffusers.loading.placing import placement, precision
from localai_diffusers.loading.placing.placement import DevicePlan
from localai_diffusers.settings import Settings
from tests.support import SHAPES_MODEL, load, spec_of
from tests.zoo import checkpoint

GIB = 2**30
WITHOUT_ACCELERATOR = unittest.skipIf(
    torch.cuda.is_available() or torch.backends.mps.is_available(), "has an accelerator"
)


def facts(components: dict[str, str] | None = None, size: int = GIB, dtype: str = "BF16") -> ModelFacts:
    named = {
        name: ("diffusers", cls) for name, cls in (components or {"transformer": "FluxTransformer2DModel"}).items()
    }
    return ModelFacts(
        Path("model"), "X", components=named, files=(WeightFile("transformer", Path("a.safetensors"), size, dtype),)
    )


def plan(model: ModelFacts | None = None, settings: Settings | None = None, **fields: Any) -> DevicePlan:
    return placement.plan(spec_of("owner/name", **fields), model or folder_facts(SHAPES_MODEL), settings or Settings())


def on_gpu(free: int = 24 * GIB, cards: int = 1) -> mock._patch:
    """torch as it answers on a machine with CUDA cards."""
    return mock.patch.multiple(
        torch.cuda, is_available=lambda: True, device_count=lambda: cards, mem_get_info=lambda _device: (free, free)
    )


def anywhere(**fields: Any) -> dict[str, Any]:
    """Fields without the device:cpu that spec_of adds: an option without effect, first in line."""
    return {"Options": ["device:", *fields.pop("Options", [])], **fields}


class DeviceTest(unittest.TestCase):
    @WITHOUT_ACCELERATOR
    def test_cuda_without_an_accelerator_is_an_error_that_names_the_way_out(self) -> None:
        with self.assertRaisesRegex(LoadError, "CUDA is true.*options: device:cpu"):
            plan(**anywhere(CUDA=True))

    @WITHOUT_ACCELERATOR
    def test_without_an_accelerator_the_cpu_is_taken(self) -> None:
        self.assertEqual(plan(**anywhere()).device, "cpu")
        self.assertEqual(plan(settings=Settings(xpu=True), **anywhere()).device, "cpu")

    def test_the_option_overrides_cuda_and_the_environment(self) -> None:
        with on_gpu():
            self.assertEqual(plan(settings=Settings(device="cuda:1"), CUDA=True, Options=["device:cpu"]).device, "cpu")

    def test_the_environment_overrides_cuda(self) -> None:
        with on_gpu():
            self.assertEqual(plan(settings=Settings(device="cpu"), **anywhere(CUDA=True)).device, "cpu")

    @WITHOUT_ACCELERATOR
    def test_a_device_that_is_unknown_or_not_there_is_refused(self) -> None:
        for name, says in (
            ("gpu", "unknown"),
            ("cuda", "not available"),
            ("cuda:1", "not available"),
            ("mps", "not available"),
            ("meta", "not available"),
            ("cpu:x", "unknown"),
        ):
            with self.assertRaisesRegex(LoadError, f"device '{name}' is {says}"):
                plan(Options=[f"device:{name}"])

    def test_main_gpu_picks_the_card(self) -> None:
        with on_gpu(cards=2):
            self.assertEqual(plan(**anywhere(CUDA=True, MainGPU="1")).device, "cuda:1")
            self.assertEqual(plan(**anywhere(CUDA=True)).device, "cuda:0")
            self.assertEqual(plan(Options=["device:cuda:0"], MainGPU="1").device, "cuda:0")
            with self.assertRaisesRegex(LoadError, "cuda:2 .*there are 2"):
                plan(**anywhere(CUDA=True, MainGPU="2"))

    def test_unset_cuda_takes_the_accelerator_if_the_weights_fit(self) -> None:
        with on_gpu(free=24 * GIB):
            self.assertEqual(plan(facts(size=10 * GIB), **anywhere()).device, "cuda:0")
            self.assertEqual(plan(facts(size=40 * GIB), **anywhere(LowVRAM=True)).device, "cuda:0")
            self.assertEqual(plan(facts(size=40 * GIB), **anywhere()).device, "cuda:0")
            found = plan(facts(size=40 * GIB), **anywhere(Options=["auto:false"]))
        self.assertEqual(found.device, "cpu")
        self.assertIn("this model runs on the CPU", found.notes[0])
        with on_gpu(free=GIB):  # another process has the rest
            self.assertEqual(plan(facts(size=GIB), **anywhere()).device, "cpu")

    def test_weights_count_in_the_dtype_that_they_will_have(self) -> None:
        """20 GiB of fp32 are 10 GiB in bf16."""
        with on_gpu(free=16 * GIB):
            self.assertEqual(
                plan(facts(size=20 * GIB, dtype="F32"), **anywhere(Options=["torch_dtype:bf16"])).device, "cuda:0"
            )
            self.assertEqual(plan(facts(size=20 * GIB, dtype="F32"), **anywhere(Options=["auto:false"])).device, "cpu")


class DtypeTest(unittest.TestCase):
    def test_what_is_asked_for_is_obeyed(self) -> None:
        self.assertEqual(plan(Options=["torch_dtype:bf16"]).dtype, "bfloat16")
        self.assertEqual(plan(DType="float16").dtype, "float16")
        self.assertEqual(plan(Options=["torch_dtype:fp32"], F16Memory=True).dtype, "float32")

    def test_an_unknown_one_is_refused(self) -> None:
        for name in ("bf17", "int8", "q4_0"):
            with self.assertRaisesRegex(LoadError, f"{name}.* is unknown"):
                plan(Options=[f"torch_dtype:{name}"])

    def test_unset_is_the_weights_own_on_an_accelerator(self) -> None:
        with on_gpu():
            self.assertEqual(plan(**anywhere(CUDA=True)).dtype, "float16")
            self.assertEqual(plan(facts(dtype="BF16"), **anywhere(CUDA=True)).dtype, "bfloat16")
            self.assertEqual(plan(facts(dtype="F8_E4M3"), **anywhere(CUDA=True)).dtype, "bfloat16")

    def test_f16_on_a_gpu_is_fp16_but_bf16_for_flow_matching(self) -> None:
        with on_gpu():
            self.assertEqual(plan(**anywhere(CUDA=True, F16Memory=True)).dtype, "float16")
            for name in (
                "FluxPipeline",
                "StableDiffusion3Pipeline",
                "ZImagePipeline",
                "QwenImagePipeline",
                "SanaPipeline",
            ):
                self.assertEqual(
                    plan(folder_facts(checkpoint(name)), **anywhere(CUDA=True, F16Memory=True)).dtype, "bfloat16", name
                )

    def test_f16_on_a_cpu_is_bf16_where_the_cpu_has_it(self) -> None:
        for has, expected in ((True, "bfloat16"), (False, "float32")):
            with mock.patch.object(precision, "_cpu_has_bf16", lambda has=has: has):
                self.assertEqual(plan(F16Memory=True).dtype, expected)

    def test_weights_in_half_precision_stay_so_on_a_cpu_that_computes_in_bf16(self) -> None:
        """The shapes model's are fp16; a picture of it in bf16 is right (test_automatic.py)."""
        fp32 = facts(dtype="F32")
        for has, model, said, expected in (
            (True, None, [], "bfloat16"),
            (False, None, [], "float32"),
            (True, fp32, [], "float32"),
            (True, None, ["auto:false"], "float32"),
            (True, None, ["torch_dtype:fp32"], "float32"),
        ):
            with mock.patch.object(precision, "_cpu_has_bf16", lambda has=has: has):
                self.assertEqual(plan(model, Options=said).dtype, expected)
        with mock.patch.object(precision, "_cpu_has_bf16", lambda: True):
            self.assertEqual(plan(settings=Settings(auto=False)).dtype, "float32")
            self.assertEqual(plan(settings=Settings(auto=False), Options=["auto:true"]).dtype, "bfloat16")

    def test_the_wan_vae_stays_in_fp32(self) -> None:
        wan = folder_facts(checkpoint("WanPipeline"))
        with on_gpu():
            found = plan(wan, **anywhere(CUDA=True, F16Memory=True))
        self.assertEqual((found.dtype, found.component_dtypes), ("bfloat16", {"vae": "float32"}))
        self.assertEqual(plan(wan, Settings(auto=False)).component_dtypes, {})

    def test_a_component_that_the_pipelines_code_hands_bf16_is_in_bf16(self) -> None:
        where = load(checkpoint("ZImageOmniPipeline")).where
        self.assertEqual((where.dtype, where.component_dtypes), ("float32", {"vae": "bfloat16"}))

    def test_a_vae_keeps_its_dtype_only_where_the_pipelines_code_casts_to_it(self) -> None:
        from diffusers import JoyImageEditPipeline, WanPipeline

        planned, wan = DevicePlan("cpu", "bfloat16", {"vae": "float32"}), folder_facts(checkpoint("WanPipeline"))
        self.assertEqual(placement.as_the_code_casts(planned, WanPipeline, wan).component_dtypes, {"vae": "float32"})
        self.assertEqual(placement.as_the_code_casts(planned, JoyImageEditPipeline, wan).component_dtypes, {})

    def test_sana_takes_its_bf16_variant_where_there_is_one(self) -> None:
        sana = facts({"transformer": "SanaTransformer2DModel"})
        files = (*sana.files, WeightFile("transformer", Path("a.bf16.safetensors"), GIB, "BF16"))
        self.assertIsNone(precision.preferred_variant(spec_of("a/b"), sana))
        with_variant = ModelFacts(sana.path, "X", components=sana.components, files=files)
        self.assertEqual(precision.preferred_variant(spec_of("a/b"), with_variant), "bf16")


class VariantTest(unittest.TestCase):
    def test_f16_takes_fp16_files_if_they_exist_and_never_requires_them(self) -> None:
        plain = facts()
        with_fp16 = ModelFacts(
            plain.path, "X", files=(*plain.files, WeightFile("transformer", Path("a.fp16.safetensors"), GIB, "F16"))
        )
        self.assertEqual(precision.preferred_variant(spec_of("a/b", F16Memory=True), with_fp16), "fp16")
        self.assertIsNone(precision.preferred_variant(spec_of("a/b", F16Memory=True), plain))
        self.assertIsNone(precision.preferred_variant(spec_of("a/b"), with_fp16))

    def test_a_variant_that_is_asked_for_must_exist(self) -> None:
        with self.assertRaisesRegex(LoadError, "variant:fp8 has no weight files.*variants none"):
            precision.preferred_variant(spec_of("a/b", Options=["variant:fp8"]), facts())


class OffloadTest(unittest.TestCase):
    def test_low_vram_means_offload_on_an_accelerator(self) -> None:
        """By layers where one component is more than half of the weights, so that the peak is halved."""
        with on_gpu():
            self.assertEqual(plan(**anywhere(CUDA=True, LowVRAM=True)).offload, "group")
            self.assertEqual(plan(**anywhere(CUDA=True, LowVRAM=True, Options=["auto:false"])).offload, "model")
            self.assertEqual(plan(**anywhere(CUDA=True)).offload, "none")
            self.assertEqual(
                plan(settings=Settings(disable_cpu_offload=True), **anywhere(CUDA=True, LowVRAM=True)).offload, "none"
            )
            self.assertEqual(
                plan(**anywhere(CUDA=True, LowVRAM=True, Options=["offload:sequential"])).offload, "sequential"
            )

    def test_low_vram_is_harmless_on_a_cpu(self) -> None:
        found = plan(LowVRAM=True)
        self.assertEqual((found.offload, found.notes), ("none", ()))

    def test_an_unknown_mode_is_refused_and_one_without_effect_noted(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "offload:disk"):
            plan(Options=["offload:disk"])
        self.assertIn("offload:model", plan(Options=["offload:model"]).notes[0])

    def test_what_does_not_fit_is_offloaded_where_nothing_is_said(self) -> None:
        with on_gpu(free=24 * GIB):
            found = plan(facts(size=40 * GIB), **anywhere(CUDA=True))
            self.assertEqual((found.device, found.offload, found.tiling), ("cuda:0", "group", True))
            self.assertRegex(found.notes[0], r"take 40\.0 GiB .* cuda:0 has 24\.0 GiB free, so layers wait")
            for said in ("offload:none", "auto:false"):
                self.assertEqual(plan(facts(size=40 * GIB), **anywhere(CUDA=True, Options=[said])).offload, "none")
            self.assertFalse(plan(facts(size=40 * GIB), **anywhere(CUDA=True, Options=["vae_tiling:false"])).tiling)
            halved = plan(facts(size=30 * GIB, dtype="F32"), **anywhere(CUDA=True))
        self.assertEqual((halved.dtype, halved.offload), ("float16", "none"))

    def test_offload_by_group_takes_the_arguments_of_diffusers(self) -> None:
        said = '{"offload_type": "block_level", "num_blocks_per_group": 2}'
        with on_gpu():
            found = plan(**anywhere(CUDA=True, Options=[f"group_offload:{said}"]))
            with self.assertRaisesRegex(LoadError, "group_offload and offload:model exclude each other"):
                plan(**anywhere(CUDA=True, Options=["group_offload:true", "offload:model"]))
        self.assertEqual(found.offload, "group")
        pipeline = mock.create_autospec(DiffusionPipeline, instance=True, components={})
        placement.place(pipeline, found)
        pipeline.enable_group_offload.assert_called_once_with(
            onload_device="cuda:0",
            exclude_modules=[],
            offload_type="block_level",
            num_blocks_per_group=2,
            use_stream=True,
        )
        pipeline.enable_group_offload.side_effect = ValueError("no such type")
        with self.assertRaisesRegex(LoadError, "option group_offload: diffusers refuses it: no such type"):
            placement.place(pipeline, found)
        self.assertIn("option group_offload has nothing to do on a CPU", plan(Options=["group_offload:true"]).notes[0])

    def test_tf32_is_switched_on_where_the_device_has_it(self) -> None:
        with on_gpu():
            found = plan(**anywhere(CUDA=True, Options=["tf32:true"]))
        with mock.patch("torch.set_float32_matmul_precision") as precision:
            placement.place(mock.create_autospec(DiffusionPipeline, instance=True), found)
            placement.place(mock.create_autospec(DiffusionPipeline, instance=True), plan(Options=["tf32:true"]))
        precision.assert_called_once_with("high")
        self.assertIn("option tf32 has nothing to do on cpu", plan(Options=["tf32:true"]).notes[0])

    def test_text_encoders_alone_wait_where_that_is_asked_for(self) -> None:
        flux = folder_facts(checkpoint("FluxPipeline"))
        alone = ["text_encoder_offload:true"]
        with on_gpu(cards=2):
            self.assertEqual(plan(flux, **anywhere(CUDA=True, Options=alone)).offload, "text_encoders")
            for fields, told in (
                ({"Options": [*alone, "offload:model"]}, "is part of what model does"),
                ({"Options": alone, "LowVRAM": True}, "is part of what low_vram does"),
                ({"Options": [*alone, "device_map:balanced"]}, "several GPUs exclude each other"),
            ):
                with self.assertRaisesRegex(LoadError, f"option text_encoder_offload.*{told}"):
                    plan(flux, **anywhere(CUDA=True, **fields))
            with self.assertRaisesRegex(LoadError, "no text encoder that could wait"):
                plan(facts(), **anywhere(CUDA=True, Options=alone))
        self.assertIn("nothing to do on a CPU", plan(flux, Options=alone).notes[0])

    def test_an_offloaded_pipeline_is_never_moved_afterwards(self) -> None:
        """The incumbent undid its offload by .to("cuda")."""
        pipeline = mock.Mock()
        placement.place(pipeline, DevicePlan("cuda:0", "float16", offload="model"))
        pipeline.enable_model_cpu_offload.assert_called_once_with(device="cuda:0")
        pipeline.to.assert_not_called()

    def test_several_gpus_need_several_gpus(self) -> None:
        with on_gpu(cards=1):
            found = plan(**anywhere(CUDA=True, TensorParallelSize=2))
        self.assertIsNone(found.device_map)
        self.assertIn("there are 1", found.notes[-1])
        with on_gpu(cards=2):
            self.assertEqual(plan(**anywhere(CUDA=True, TensorParallelSize=2)).device_map, "balanced")
        with self.assertRaisesRegex(InvalidRequest, "device_map:auto"):
            plan(Options=["device_map:auto"])


class SwitchesTest(unittest.TestCase):
    def test_switches_reach_the_components(self) -> None:
        model = load(
            SHAPES_MODEL, Options=["vae_tiling:true", "vae_slicing", "channels_last:true", "attention_slicing:false"]
        )
        self.assertTrue(model.pipeline.vae.use_tiling and model.pipeline.vae.use_slicing)
        weight = model.pipeline.unet.conv_in.weight
        self.assertTrue(weight.is_contiguous(memory_format=torch.channels_last))

    def test_channels_come_last_in_convolutions_over_time_too(self) -> None:
        pipeline = load(checkpoint("WanPipeline"), Options=["channels_last:true"]).pipeline
        weight = pipeline.transformer.patch_embedding.weight
        self.assertTrue(weight.is_contiguous(memory_format=torch.channels_last_3d))

    def test_the_vae_has_a_memory_format_of_its_own(self) -> None:
        pipeline = load(SHAPES_MODEL, Options=["vae_channels_last:true"]).pipeline
        last = torch.channels_last
        self.assertTrue(pipeline.vae.decoder.conv_in.weight.is_contiguous(memory_format=last))
        self.assertFalse(pipeline.unet.conv_in.weight.is_contiguous(memory_format=last))

    def test_one_that_the_pipeline_lacks_is_noted(self) -> None:
        model = load(checkpoint("DDPMPipeline"), Options=["vae_tiling:true", "fuse_qkv:true"])
        self.assertIn("vae_tiling is not supported by DDPMPipeline", " ".join(model.notes))

    def test_a_generator_on_a_device_that_is_not_there_is_refused_at_the_load(self) -> None:
        with self.assertRaisesRegex(LoadError, "generator_device: device 'xpu:7'"):
            plan(Options=["device:cpu", "generator_device:xpu:7"])

    def test_an_unknown_attention_backend_is_refused(self) -> None:
        with self.assertRaisesRegex(LoadError, "attention_backend:warp"):
            load(SHAPES_MODEL, Options=["attention_backend:warp"])


if __name__ == "__main__":
    unittest.main()
