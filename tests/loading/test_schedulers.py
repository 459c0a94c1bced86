# SPDX-License-Identifier: MIT
"""SchedulerType: every name of LocalAI's docs and editor gives a scheduler that drives the model,
others are refused."""

from __future__ import annotations

import unittest
from typing import Any

import diffusers

from localai_diffusers.errors import InvalidRequest, LoadError
from localai_diffusers.loading import schedulers
from localai_diffusers.pipeline import scheduler_calls
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
        with self.assertRaisesRegex(LoadError, "'euler_b' is unknown. Did you mean .*euler_a"):
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


class KindsTest(unittest.TestCase):
    """Which of all scheduler classes drive models of a kind: told by sampling, so the configs are published ones."""

    BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

    def able(self, own: Any, cls: type | None = None) -> set[str]:
        return set(schedulers._able(own, True, cls))

    def refused(self, name: str, own: Any) -> str:
        with self.assertRaises(LoadError) as caught:
            made(name, own)
        return str(caught.exception)

    def test_every_usual_name_drives_what_learned_from_betas(self) -> None:
        for fields in ({}, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}):
            own = diffusers.DDIMScheduler(**self.BETAS, clip_sample=False, **fields)
            flows = {name for name in schedulers.NAMES if name.startswith("flow")}
            self.assertEqual(self.able(own), set(schedulers.NAMES) - flows)

    def test_those_of_other_kinds_are_refused_and_the_other_way_round(self) -> None:
        for name in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "IPNDMScheduler", "DDIMInverseScheduler"):
            self.assertIn("Those that can: ddim", self.refused(name, CURRENT))
        for own in ("EDMEulerScheduler", "CosineDPMSolverMultistepScheduler", "IPNDMScheduler", "UnCLIPScheduler"):
            for name in ("euler", "dpmpp_2m", "flow_match_euler"):
                self.assertIn(f"Those that can: {own}", self.refused(name, getattr(diffusers, own)()))
        self.assertIn("cannot drive", self.refused("AmusedScheduler", CURRENT))
        self.assertIn("cannot drive", self.refused("CMStochasticIterativeScheduler", CURRENT))
        self.assertIn("cannot drive", self.refused("DDPMWuerstchenScheduler", CURRENT))

    def test_an_edm_model_takes_both_edm_solvers(self) -> None:
        for name in ("EDMDPMSolverMultistepScheduler", "edmeulerscheduler"):
            self.assertEqual(made(name, diffusers.EDMEulerScheduler(sigma_max=40.0)).config.sigma_max, 40.0)

    def test_a_schedule_that_is_moved_is_kept_or_refused(self) -> None:
        own = diffusers.CogVideoXDDIMScheduler(**self.BETAS, prediction_type="v_prediction", snr_shift_scale=3.0)
        self.assertEqual(self.able(own), set())
        two = schedulers.make("CogVideoXDPMScheduler", own, True, diffusers.CogVideoXPipeline)[0]
        self.assertEqual(two.config.snr_shift_scale, 3.0)

    def test_base_classes_are_not_offered(self) -> None:
        self.assertFalse({"SchedulerMixin", "Mel"} & set(schedulers._scheduler_classes()))
        with self.assertRaisesRegex(LoadError, "is unknown"):
            schedulers.parse_name("SchedulerMixin")

    def test_facts_of_the_model_are_kept_where_two_classes_have_two_defaults(self) -> None:
        """LCM's default betas are scaled linear ones, Euler's are not: diffusers gives Euler its own."""
        config = made("euler", diffusers.LCMScheduler()).config
        self.assertEqual((config.beta_start, config.beta_schedule), (0.00085, "scaled_linear"))

    def test_zero_terminal_snr_that_is_lost_is_a_note(self) -> None:
        own = diffusers.DDIMScheduler(**self.BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True)
        self.assertEqual(schedulers.make("euler", own, True)[1], [])
        self.assertIn("zero terminal SNR", schedulers.make("heun", own, True)[1][0])
        self.assertEqual(schedulers.make("heun", CURRENT, True)[1], [])


class ShiftTest(unittest.TestCase):
    """A flow's shift under either of its names, and the steps that it makes, by plain diffusers."""

    WAN = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0, num_train_timesteps=1000
    )

    def test_it_survives_a_change_of_class(self) -> None:
        for own, shift in ((self.WAN, 5.0), (FlowTest.FLOW, 3.0)):
            for name in schedulers._able(own, True):
                config = made(name, own).config
                self.assertEqual(
                    config.get("flow_shift") if "flow_shift" in config else config.get("shift"), shift, name
                )

    def test_the_steps_are_the_new_classes_own(self) -> None:
        for own in (self.WAN, FlowTest.FLOW):
            shift = own.config.get("flow_shift") or own.config.shift
            plain = {
                "flow_match_euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
                "dpmpp_2m": diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=shift),
                "unipc": diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=shift),
            }
            for name, right in plain.items():
                scheduler = made(name, own)
                for one in (scheduler, right):
                    one.set_timesteps(8)
                self.assertEqual(scheduler.sigmas.tolist(), right.sigmas.tolist(), name)

    def test_one_that_ends_with_noise_says_so(self) -> None:
        self.assertIn("ends with noise", schedulers.make("deis", self.WAN, True)[1][0])
        self.assertEqual(schedulers.make("dpmpp_2m", self.WAN, True)[1], [])


class CodeTest(unittest.TestCase):
    """What the pipeline's code passes on is refused before the load where the scheduler does not take it."""

    FLOWS = [name for name in schedulers.NAMES if name in schedulers._able(FlowTest.FLOW, True)]

    def offered(self, cls: type, **config: Any) -> list[str]:
        own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **config)
        found = []
        for name in self.FLOWS:
            try:
                schedulers.check(name, {**own.config, "_class_name": type(own).__name__}, cls)
                found.append(name)
            except LoadError as error:
                self.assertIn(f"{cls.__name__} asks more of a scheduler (its set_timesteps ", str(error))
        return found

    def test_sigmas_and_mu(self) -> None:
        self.assertEqual(len(self.FLOWS), 11)
        two = ["flow_match_euler", "flow_match_lcm"]
        self.assertEqual(self.offered(diffusers.QwenImagePipeline), ["unipc", *two])
        self.assertEqual(self.offered(diffusers.ZImagePipeline), two)  # its sigmas are a list
        self.assertEqual(self.offered(diffusers.StableDiffusion3Pipeline), self.FLOWS)
        self.assertEqual(self.offered(diffusers.WanPipeline), self.FLOWS)

    def test_those_that_are_offered_run_and_those_that_are_refused_do_not(self) -> None:
        for name in ("QwenImagePipeline", "ZImagePipeline"):
            model = load(checkpoint(name))
            own, cls = model.pipeline.scheduler, type(model.pipeline)
            offered = [known for known in schedulers._able(own, True, cls) if known in self.FLOWS]
            for known in ("dpmpp_2m", "unipc", "flow_match_euler"):
                model.pipeline.scheduler = schedulers.make(known, own, True)[0]  # without the class: as it was
                try:
                    generate(model, "a circle", step=2, width=32, height=32, seed=1)
                    self.assertIn(known, offered, name)
                except InvalidRequest:
                    self.assertNotIn(known, offered, name)

    def test_a_load_refuses_it_by_name(self) -> None:
        with self.assertRaisesRegex(
            LoadError, "QwenImagePipeline asks more .* Those that can: unipc, flow_match_euler"
        ):
            load(checkpoint("QwenImagePipeline"), SchedulerType="dpmpp_2m")

    def test_what_another_pipeline_reads_or_steps_with(self) -> None:
        own = diffusers.EDMEulerScheduler()
        self.assertIn("step takes no pred_original_sample", scheduler_calls.misfit(COSMOS, CURRENT))
        self.assertEqual(scheduler_calls.misfit(COSMOS, own), "")
        unipc = made("unipc", FlowTest.FLOW)
        self.assertEqual(scheduler_calls.misfit(diffusers.FluxPipeline, unipc), "")
        self.assertEqual(
            scheduler_calls.misfit(diffusers.FluxPipeline, made("flow_match_heun", FlowTest.FLOW)), NO_BOTH
        )


COSMOS = diffusers.CosmosTextToWorldPipeline
NO_BOTH = "its set_timesteps takes no sigmas, its set_timesteps takes no mu"


class StepsTest(unittest.TestCase):
    def model(self, name: str) -> Any:
        return load(SHAPES_MODEL, SchedulerType=name)

    def test_pndm_takes_its_least_steps_with_a_note(self) -> None:
        pair = [generate(self.model("pndm"), PROMPT, width=64, height=64, seed=1, step=step) for step in (3, 4)]
        self.assertEqual(pair[0][0].tobytes(), pair[1][0].tobytes())
        self.assertIn("step=3 is too few for this model's scheduler: 4 are taken", pair[0][1].message())
        self.assertNotIn("too few", pair[1][1].message())

    def test_more_steps_than_a_distillation_has_are_refused_by_name(self) -> None:
        for name in ("lcm", "tcd"):
            with self.assertRaisesRegex(InvalidRequest, "step=60 is more than .* send at most 50"):
                generate(self.model(name), PROMPT, width=64, height=64, step=60)

    def test_one_step_stays_one_where_it_can_be_taken(self) -> None:
        for name in ("euler", "lcm", "unipc"):
            outcome = generate(self.model(name), PROMPT, width=64, height=64, step=1)[1]
            self.assertNotIn("too few", outcome.message(), name)


PROMPT = "a red circle on a blue background"


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
