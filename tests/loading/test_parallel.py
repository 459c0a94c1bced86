# SPDX-License-Identifier: MIT
"""``parallel:`` is refused by name where it cannot serve; ranks run the same call on the same model."""

from __future__ import annotations

import unittest
from typing import Any
from unittest import mock

from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.errors import InvalidRequest, LoadError
from localai_diffusers.loading import parallel, pipelines
from localai_diffusers.loading.placing import devices
from localai_diffusers.loading.placing.placement import DevicePlan
from localai_diffusers.settings import Settings
from localai_diffusers.work.ranks import group
from tests.support import SHAPES_MODEL, generate, load, spec_of

FLUX = {"transformer": ("diffusers", "FluxTransformer2DModel")}


def planned(*options: str, components: Any = None, cards: int = 2, where: Any = None, **fields: Any) -> Any:
    """What is planned for a Flux model of three attention heads on a machine of two GPUs."""
    facts = mock.Mock(spec=ModelFacts, components=components or FLUX, config=lambda _name: {"num_attention_heads": 6})
    with (
        mock.patch.object(devices, "device_count", lambda _device: cards),
        mock.patch.object(devices, "free_memory", lambda _device: 80 * 2**30),
    ):
        spec = spec_of("flux", Options=list(options), **fields)
        return parallel.plan(spec, facts, where or DevicePlan("cuda:0", "bfloat16"), 2**30)


class PlanTest(unittest.TestCase):
    def test_what_is_asked_for_is_planned(self) -> None:
        self.assertEqual(planned("parallel:context=2"), parallel.Shares("context", 2))
        self.assertEqual(planned('parallel:{"tensor": 2}'), parallel.Shares("tensor", 2))
        self.assertIsNone(planned())

    def test_the_wire_s_size_shares_out_what_has_a_plan_and_fits(self) -> None:
        spread = DevicePlan("cuda:0", "bfloat16", device_map="balanced")
        self.assertEqual(planned(TensorParallelSize=2, where=spread), parallel.Shares("tensor", 2))
        unet = {"unet": ("diffusers", "UNet2DConditionModel")}
        self.assertIsNone(planned(TensorParallelSize=2, where=spread, components=unet))
        self.assertIsNone(planned("device_map:balanced", TensorParallelSize=2, where=spread))

    def test_what_cannot_be_is_refused_with_the_way_out(self) -> None:
        rows: list[tuple[str, str, dict[str, Any]]] = [
            ("parallel:context=3", "needs 3 GPUs.* has 2", {}),
            (
                "parallel:context=2",
                "UNet2DConditionModel has none: device_map:balanced",
                {"components": {"unet": ("diffusers", "UNet2DConditionModel")}},
            ),
            ("parallel:context=2", "offload:model", {"where": DevicePlan("cuda:0", "float16", offload="model")}),
            ("parallel:context=2", "CUDA_VISIBLE_DEVICES", {"where": DevicePlan("cuda:1", "float16")}),
            ("parallel:tensor=4", "attention heads", {"cards": 4}),
        ]
        for option, words, given in rows:
            with self.subTest(option, words=words), self.assertRaisesRegex(LoadError, words):
                planned(option, **given)
        for other in ("max_batch:2", "device_map:balanced", "compile:true", "generator_device:cuda"):
            with self.subTest(other), self.assertRaisesRegex(LoadError, f"option {other.partition(':')[0]}: drop one"):
                planned("parallel:context=2", other)
        for wrong in ("parallel:2", "parallel:context=1", "parallel:context=2,tensor=2"):
            with self.subTest(wrong), self.assertRaisesRegex(InvalidRequest, "context=N"):
                planned(wrong)

    def test_a_machine_without_two_gpus_refuses_and_starts_nothing(self) -> None:
        with (
            mock.patch.object(group, "start") as start,
            self.assertRaisesRegex(LoadError, "parallel:context=2 needs 2"),
        ):
            load(SHAPES_MODEL, Options=["parallel:context=2", "device:cpu"])
        start.assert_not_called()


class SameCallTest(unittest.TestCase):
    def test_every_rank_loads_the_model_and_runs_the_request_s_call(self) -> None:
        """On CPUs, where nothing is shared out: what each rank computes is the whole."""
        self.addCleanup(group.end)
        spec, settings = spec_of(SHAPES_MODEL, Options=["device:cpu"]), Settings()
        with mock.patch.object(parallel, "share"), mock.patch.object(parallel, "share_as_peer", stay_whole):
            model = parallel.on_every_rank(
                lambda: load(SHAPES_MODEL, Options=["device:cpu"]),
                parallel.Shares("context", 2),
                DevicePlan("cpu", "float32"),
                pipelines.load_as_peer,
                spec,
                settings,
                log_format="text",
                check=lambda: None,
            )()
        generate(model, "a red circle", seed=3, step=2)
        ranks = group.current()
        assert ranks is not None
        self.assertEqual([one.outcome for one in ranks.peers], [("", 2, "")])


def stay_whole(*_: Any) -> None:
    """A peer's part in sharing out nothing."""
