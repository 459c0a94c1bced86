"""SchedulerType: every name of LocalAI's docs and editor gives a scheduler that drives the model,
others are refused."""

from __future__ import annotations

import unittest
from typing import Any

import diffusers

from localai_diffusers.errors import LoadError
from localai_diffusers.loading import schedulers
from tests.shapes_judge import judge
from tests.support import SHAPES_MODEL, generate, load
from tests.zoo import checkpoint

# LocalAI's documentation (features/image-generation.md): name -> class of the incumbent.
DOCUMENTED = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "heun": "HeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "dpm_2": "KDPM2DiscreteScheduler",
    "dpm_2_a": "KDPM2AncestralDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_sde": "DPMSolverSinglestepScheduler",
    "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
}
EDITOR = ("ddim", "ddpm", "pndm", "lms", "euler", "euler_a", "dpm_multistep", "dpm_singlestep", "heun", "unipc")
CURRENT = diffusers.DDIMScheduler(beta_start=0.001, beta_end=0.01, beta_schedule="scaled_linear", clip_sample=False)


def made(name: str, current: Any = CURRENT, in_latent_space: bool = True) -> Any:
    return schedulers.make(name, current, in_latent_space)[0]


class NamesTest(unittest.TestCase):
    def test_documented_names_keep_the_incumbents_classes(self) -> None:
        for name, class_name in DOCUMENTED.items():
            self.assertEqual(type(made(name)).__name__, class_name, name)

    def test_every_name_of_the_model_editor_is_known(self) -> None:
        for name in EDITOR:
            schedulers.parse_name(name)

    def test_the_dpm_names_differ_in_their_algorithm(self) -> None:
        self.assertEqual(made("dpmpp_2m").config.algorithm_type, "dpmsolver++")
        self.assertEqual(made("dpmpp_2m_sde").config.algorithm_type, "sde-dpmsolver++")
        self.assertEqual(made("k_dpmpp_2m").config.solver_order, 2)

    def test_k_asks_for_karras_sigmas(self) -> None:
        for name in ("k_euler", "k_dpmpp_2m", "k_heun", "k_lms", "K_DPM_2"):
            self.assertTrue(made(name).config.use_karras_sigmas, name)
        self.assertFalse(made("euler").config.use_karras_sigmas)

    def test_k_on_a_class_without_karras_sigmas_is_ignored_and_noted(self) -> None:
        for name in ("k_ddim", "k_pndm", "k_euler_a"):
            scheduler, notes = schedulers.make(name, CURRENT, True)
            self.assertEqual(type(scheduler).__name__, DOCUMENTED[name[2:]])
            self.assertIn(name, notes[0])
        self.assertEqual(schedulers.make("k_euler", CURRENT, True)[1], [])

    def test_the_prefix_is_taken_off_once_and_only_as_a_prefix(self) -> None:
        """The incumbent stripped any run of k and _."""
        for name in ("k_k_euler", "kk_euler", "_euler", "keuler", "k_"):
            with self.assertRaises(LoadError):
                schedulers.parse_name(name)

    def test_any_scheduler_class_may_be_named_in_any_case(self) -> None:
        for name in ("EDMEulerScheduler", "edmeulerscheduler", "TCDScheduler", "k_EulerDiscreteScheduler"):
            self.assertEqual(schedulers.parse_name(name)[0].class_name.lower(), name.removeprefix("k_").lower())

    def test_an_unknown_name_is_answered_with_the_closest(self) -> None:
        with self.assertRaisesRegex(LoadError, "'euler_b' is unknown. Did you mean euler_a"):
            schedulers.parse_name("euler_b")


class ConfigTest(unittest.TestCase):
    def test_the_models_betas_are_kept_and_its_scheduler_is_not_touched(self) -> None:
        before = dict(CURRENT.config)
        for name in DOCUMENTED:
            config = made(name).config
            self.assertEqual(
                (config.beta_start, config.beta_end, config.beta_schedule), (0.001, 0.01, "scaled_linear"), name
            )
        self.assertEqual(dict(CURRENT.config), before)

    def test_one_load_leaves_nothing_for_the_next(self) -> None:
        """The incumbent kept its settings in a mutable default."""
        made("k_dpmpp_2m_sde")
        self.assertNotEqual(made("dpm_multistep").config.algorithm_type, "sde-dpmsolver++")
        self.assertFalse(made("dpm_multistep").config.use_karras_sigmas)

    def test_latents_are_not_clipped_unless_the_model_says_so(self) -> None:
        pndm = diffusers.PNDMScheduler()
        self.assertFalse(made("ddim", pndm).config.clip_sample)
        self.assertTrue(made("ddim", pndm, in_latent_space=False).config.clip_sample)
        self.assertTrue(made("ddpm", diffusers.DDIMScheduler(clip_sample=True)).config.clip_sample)


class FlowTest(unittest.TestCase):
    FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)

    def test_one_that_cannot_drive_the_model_is_refused_with_those_that_can(self) -> None:
        with self.assertRaisesRegex(
            LoadError, "cannot drive this model, which is a flow-matching one. .*flow_match_euler"
        ):
            made("ddim", self.FLOW)
        with self.assertRaisesRegex(LoadError, "which is not a flow-matching one. .*ddim"):
            made("flow_match_euler")

    def test_a_solver_with_flow_sigmas_is_set_to_them(self) -> None:
        for name in ("dpmpp_2m", "unipc", "euler"):
            self._check_flow(name)

    def _check_flow(self, name: str) -> None:
        try:
            config = made(name, self.FLOW).config
        except LoadError:
            self.assertNotIn("use_flow_sigmas", schedulers._scheduler_class(DOCUMENTED[name])().config)
        else:
            self.assertEqual((config.use_flow_sigmas, config.prediction_type), (True, "flow_prediction"))

    def test_the_check_before_a_load_agrees_with_the_making(self) -> None:
        for current in (CURRENT, self.FLOW):
            config = {**current.config, "_class_name": type(current).__name__}
            for name in schedulers.NAMES:
                try:
                    schedulers.check(name, config)
                except LoadError:
                    with self.assertRaises(LoadError, msg=name):
                        made(name, current)
                else:
                    made(name, current)

    def test_every_flow_scheduler_that_is_offered_runs_a_flow_model(self) -> None:
        model = load(checkpoint("StableDiffusion3Pipeline"))
        own = model.pipeline.scheduler
        offered = schedulers._able(own, True)
        self.assertIn("flow_match_euler", offered)
        for name in offered:
            model.pipeline.scheduler = schedulers.make(name, own, True)[0]
            image, _ = generate(model, "a red circle", step=2, width=32, height=32, seed=1)
            self.assertNotEqual(image.getextrema(), ((0, 0),) * 3, name)


class PicturesTest(unittest.TestCase):
    def test_every_name_makes_the_right_picture_of_the_trained_model(self) -> None:
        """A wrong scheduler shows: the shape or the colors go. Low guidance,
        for PLMS and LMS swing far at a high one."""
        model = load(SHAPES_MODEL, Options=["cfg_scale:1.5"])
        own, prompt, wrong = model.pipeline.scheduler, "a red circle on a blue background", []
        for name in sorted({*DOCUMENTED, *EDITOR, "k_dpmpp_2m", "k_euler", "deis", "lcm", "tcd", "sa_solver"}):
            model.pipeline.scheduler = schedulers.make(name, own, True)[0]
            image, _ = generate(model, prompt, step=40 if name == "ddpm" else 20, seed=1, width=64, height=64)
            if judge(image).prompt() != prompt:
                wrong.append(f"{name}: {judge(image)}")
        self.assertEqual(wrong, [])


if __name__ == "__main__":
    unittest.main()
