# SPDX-License-Identifier: MIT
"""diffusers_dynamic_loader: what it lists is the truth, what it chooses fits, and what it says helps."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers_dynamic_loader as loader
from localai_diffusers.discovery import load
from localai_diffusers.discovery.siblings import sibling_by_rule
from localai_diffusers.discovery.source import catalog, diffusers_folder
from localai_diffusers.discovery.tasks import family_of, mapping_of, tasks_by_signature
from localai_diffusers.discovery.traits import traits_of
from tests import zoo
from tests.hub_server import FakeHub, closed_port_url, hub_environment

ROOT = Path(loader.__file__).resolve().parent
# Task -> diffusers' own table for it, and how many of its classes the signature alone must tell.
TABLES = {
    "text-to-image": ("AUTO_TEXT2IMAGE_PIPELINES_MAPPING", 52),
    "image-to-image": ("AUTO_IMAGE2IMAGE_PIPELINES_MAPPING", 27),
    "inpainting": ("AUTO_INPAINT_PIPELINES_MAPPING", 18),
    "text-to-video": ("AUTO_TEXT2VIDEO_PIPELINES_MAPPING", 3),
    "image-to-video": ("AUTO_IMAGE2VIDEO_PIPELINES_MAPPING", 2),
    "video-to-video": ("AUTO_VIDEO2VIDEO_PIPELINES_MAPPING", 2),
    "text-to-audio": ("AUTO_TEXT2AUDIO_PIPELINES_MAPPING", 4),
}


def run_python(code: str, env: dict[str, str] | None = None, *arguments: str) -> str:
    """Stdout of a fresh interpreter; its stderr is shown when it fails."""
    environment = dict(env or os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(part for part in (environment.get("PYTHONPATH", ""), str(ROOT)) if part)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=environment,
        text=True,
        capture_output=True,
        timeout=240,
        cwd=tempfile.gettempdir(),
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


def run_json(code: str, env: dict[str, str] | None = None, *arguments: str) -> Any:
    """The JSON that the last line of a fresh interpreter's output holds."""
    return json.loads(run_python(code, env, *arguments).strip().splitlines()[-1])


def auto_tables() -> dict[str, dict[str, str]]:
    """diffusers' AutoPipeline tables, imported: task -> family key -> class name."""
    from diffusers.pipelines import auto_pipeline

    return {
        task: {key: cls.__name__ for key, cls in getattr(auto_pipeline, table).items()}
        for task, (table, _) in TABLES.items()
    }


class ListingTest(unittest.TestCase):
    heavy = True

    def test_listing_all_names_is_quick_and_imports_neither_torch_nor_diffusers(self) -> None:
        code = """
            import time; start = time.perf_counter(); cpu = time.process_time()
            import sys, json, diffusers_dynamic_loader as loader
            names = loader.get_available_pipelines()
            took = min(time.perf_counter() - start, time.process_time() - cpu)
            heavy = {"torch", "diffusers", "transformers"} & set(sys.modules)
            print(json.dumps([len(names), took, sorted(heavy)]))
        """
        count, seconds, heavy = min((run_json(code) for _ in range(3)), key=lambda row: row[1])
        self.assertGreater(count, 300)
        self.assertEqual(heavy, [])
        self.assertLessEqual(seconds, 0.3)

    def test_listing_tasks_imports_neither_torch_nor_diffusers(self) -> None:
        code = """
            import sys, json, diffusers_dynamic_loader as loader
            tasks = loader.get_available_tasks()
            print(json.dumps([len(tasks), sorted({"torch", "diffusers", "transformers"} & set(sys.modules))]))
        """
        count, heavy = run_json(code)
        self.assertGreater(count, 100)
        self.assertEqual(heavy, [])

    def test_the_list_equals_the_truth_found_by_importing_everything(self) -> None:
        code = """
            import importlib, json, pkgutil, warnings
            warnings.simplefilter("ignore")
            import diffusers, diffusers.pipelines as pipelines, diffusers_dynamic_loader as loader
            from localai_diffusers.discovery.source import catalog
            for found in pkgutil.walk_packages(pipelines.__path__, "diffusers.pipelines."):
                try:
                    importlib.import_module(found.name)
                except Exception:
                    pass
            def below(cls):
                return {cls} | {deep for child in cls.__subclasses__() for deep in below(child)}
            auto = [name for name in dir(diffusers) if name.startswith("AutoPipelineFor")]
            truth = {cls.__name__: cls.__module__ for cls in below(diffusers.DiffusionPipeline)
                     if cls.__module__.startswith("diffusers.pipelines")}
            ours = {name: record.module for name, record in catalog().items() if name not in auto}
            print(json.dumps([truth, ours, auto, [name in loader.get_pipeline_registry() for name in auto]]))
        """
        truth, ours, auto, listed = run_json(code)
        self.assertEqual(ours, truth)
        self.assertEqual(len(auto), 4)
        self.assertTrue(all(listed))

    def test_every_class_can_be_looked_up_though_diffusers_shows_some_as_dummies(self) -> None:
        import diffusers

        dummies = [
            name
            for name in loader.get_available_pipelines()
            if "dummy" in getattr(getattr(diffusers, name, None), "__module__", "")
        ]
        self.assertTrue(dummies)
        for name in dummies:
            cls = loader.get_pipeline_registry()[name]
            self.assertTrue(issubclass(cls, diffusers.DiffusionPipeline), name)

    def test_lists_are_sorted(self) -> None:
        self.assertEqual(loader.get_available_pipelines(), sorted(loader.get_pipeline_registry()))
        self.assertEqual(loader.get_available_tasks(), sorted(loader.get_task_aliases()))


class NewModuleTest(unittest.TestCase):
    """A copy of diffusers (symbolic links to the installed one) with two modules that it never had."""

    heavy = True

    SOURCE = """
        {first}
        from diffusers import DiffusionPipeline as Base


        class {name}(
            Base,
        ):
            def __init__(self, unet, scheduler):
                super().__init__()

            def __call__(self, prompt: str | list[str] = None, image=None, num_frames: int = 9):
                return AardvarkPipelineOutput(frames=None)
    """

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        installed, copy = Path(diffusers_folder()), cls.folder / "diffusers"
        (copy / "pipelines" / "aardvark").mkdir(parents=True)
        for source, target in ((installed, copy), (installed / "pipelines", copy / "pipelines")):
            for path in source.iterdir():
                if path.name not in ("pipelines", "__pycache__"):
                    (target / path.name).symlink_to(path)
        package = copy / "pipelines" / "aardvark"
        (package / "__init__.py").write_text("")
        for name, first in (("AardvarkPipeline", ""), ("NeedyPipeline", "import a_package_nobody_has")):
            text = textwrap.dedent(cls.SOURCE.format(first=first, name=name))
            (package / f"pipeline_{name.lower()}.py").write_text(text)

    @classmethod
    def ask(cls, code: str) -> Any:
        return run_json(
            "import json, diffusers_dynamic_loader as loader\n" + textwrap.dedent(code),
            {**os.environ, "PYTHONPATH": str(cls.folder)},
        )

    @classmethod
    @functools.cache
    def looked_up(cls) -> Any:
        """One process for both look-ups: it imports torch."""
        return cls.ask("""
            module = loader.resolve_pipeline_class('aardvarkpipeline').__module__
            try:
                loader.get_pipeline_registry()["NeedyPipeline"]
            except ImportError as error:
                listed = "NeedyPipeline" in loader.get_pipeline_registry()
                print(json.dumps([module, listed, str(error), error.name]))
        """)

    def test_a_new_pipeline_module_appears_with_its_tasks(self) -> None:
        names, tasks, family = self.ask(
            "print(json.dumps([loader.get_available_pipelines(), loader.pipeline_tasks('AardvarkPipeline'), "
            "loader.get_task_aliases()['aardvark']]))"
        )
        added = set(names) - set(loader.get_available_pipelines())
        self.assertEqual(added, {"AardvarkPipeline", "NeedyPipeline"})
        self.assertEqual(tasks, ["text-to-video", "image-to-video"])
        self.assertEqual(family, ["AardvarkPipeline"])

    def test_a_new_pipeline_module_can_be_imported(self) -> None:
        self.assertEqual(self.looked_up()[0], "diffusers.pipelines.aardvark.pipeline_aardvarkpipeline")

    def test_a_class_whose_package_is_missing_is_listed_and_says_how_to_install_it(self) -> None:
        _, listed, message, package = self.looked_up()
        self.assertTrue(listed)
        self.assertIn("pip install a_package_nobody_has", message)
        self.assertEqual(package, "a_package_nobody_has")


class RegistryTest(unittest.TestCase):
    heavy = True

    def test_it_is_one_read_only_mapping(self) -> None:
        registry = loader.get_pipeline_registry()
        self.assertIs(registry, loader.get_pipeline_registry())
        with self.assertRaises(TypeError):
            registry["X"] = object  # type: ignore[index]
        with self.assertRaises(KeyError):
            registry["NoSuchPipeline"]

    def test_looking_one_up_imports_its_own_module_only(self) -> None:
        code = """
            import sys, json, diffusers_dynamic_loader as loader
            cls = loader.get_pipeline_registry()["DDPMPipeline"]
            print(json.dumps([cls.__module__, "diffusers.pipelines.flux.pipeline_flux" in sys.modules]))
        """
        self.assertEqual(run_json(code), ["diffusers.pipelines.ddpm.pipeline_ddpm", False])

    def test_threads_get_one_registry_and_real_classes(self) -> None:
        code = """
            import json, threading, diffusers_dynamic_loader as loader
            names = ["FluxPipeline", "DDPMPipeline", "WanPipeline", "StableDiffusionPipeline"] * 2
            gate, seen = threading.Barrier(len(names)), []
            def work(name):
                gate.wait()
                registry = loader.get_pipeline_registry()
                seen.append((id(registry), id(loader.get_task_aliases()), registry[name].__name__))
            threads = [threading.Thread(target=work, args=(name,)) for name in names]
            [thread.start() for thread in threads], [thread.join() for thread in threads]
            print(json.dumps([len({row[0] for row in seen}), len({row[1] for row in seen}),
                              sorted(row[2] for row in seen) == sorted(names)]))
        """
        self.assertEqual(run_json(code), [1, 1, True])

    def test_the_caches_can_be_reset_as_the_incumbents_tests_do(self) -> None:
        with mock.patch.multiple(loader, _pipeline_registry=None, _task_aliases=None):
            self.assertIn("DiffusionPipeline", loader.get_pipeline_registry())
            self.assertIn("text-to-image", loader.get_task_aliases())


class TasksTest(unittest.TestCase):
    WINNERS = {
        "text-to-image": "AutoPipelineForText2Image",
        "txt2img": "AutoPipelineForText2Image",
        "text2image": "AutoPipelineForText2Image",
        "text2img": "AutoPipelineForText2Image",
        "image-to-image": "AutoPipelineForImage2Image",
        "img2img": "AutoPipelineForImage2Image",
        "inpainting": "AutoPipelineForInpainting",
        "inpaint": "AutoPipelineForInpainting",
        "text-to-audio": "AutoPipelineForText2Audio",
        "text-to-video": "WanPipeline",
        "image-to-video": "WanImageToVideoPipeline",
        "video-to-video": "WanVideoToVideoPipeline",
        "text-to-3d": "ShapEPipeline",
        "image-to-3d": "ShapEImg2ImgPipeline",
        "controlnet": "StableDiffusionControlNetPipeline",
        "depth-to-image": "StableDiffusionDepth2ImgPipeline",
        "depth-estimation": "MarigoldDepthPipeline",
        "upscaling": "StableDiffusionUpscalePipeline",
        "super-resolution": "StableDiffusionUpscalePipeline",
        "unconditional-image-generation": "DDPMPipeline",
        "audio-to-audio": "StableAudio3AudioToAudioPipeline",
        "any-to-any": "DiffusionPipeline",
    }
    FAMILIES = {
        "stable-diffusion": "StableDiffusionPipeline",
        "stable-diffusion-xl": "StableDiffusionXLPipeline",
        "stable-diffusion-3": "StableDiffusion3Pipeline",
        "flux": "FluxPipeline",
        "flux2": "Flux2Pipeline",
        "z-image": "ZImagePipeline",
        "qwen-image": "QwenImagePipeline",
        "qwenimage": "QwenImagePipeline",
        "wan": "WanPipeline",
        "sana": "SanaPipeline",
        "ltx": "LTXPipeline",
        "pixart-alpha": "PixArtAlphaPipeline",
        "stable-diffusion-img2img": "StableDiffusionImg2ImgPipeline",
        "cogview4": "CogView4Pipeline",
        "stable-video-diffusion": "StableVideoDiffusionPipeline",
        "kandinsky3": "Kandinsky3Pipeline",
        "stable-diffusion-xl-controlnet": "StableDiffusionXLControlNetPipeline",
        "chroma": "ChromaPipeline",
    }
    # Pipeline tags of diffusers models on the Hub.
    TAGS = (
        "text-to-image",
        "image-to-image",
        "image-text-to-image",
        "unconditional-image-generation",
        "text-to-video",
        "image-to-video",
        "image-text-to-video",
        "video-to-video",
        "text-to-audio",
        "text-to-speech",
        "audio-to-audio",
        "text-to-3d",
        "image-to-3d",
        "depth-estimation",
        "any-to-any",
        "text-generation",
        "image-text-to-text",
    )

    def test_the_winner_of_a_task_is_the_class_an_expert_names(self) -> None:
        aliases = loader.get_task_aliases()
        self.assertEqual({task: aliases[task][0] for task in self.WINNERS}, self.WINNERS)

    def test_a_familys_name_means_its_plain_class(self) -> None:
        aliases = loader.get_task_aliases()
        self.assertEqual({name: aliases[name][0] for name in self.FAMILIES}, self.FAMILIES)

    def test_every_plain_class_wins_the_name_of_its_family(self) -> None:
        aliases = loader.get_task_aliases()
        for name, record in catalog().items():
            kebab = loader._camel_to_kebab(name.removesuffix("Pipeline"))
            plain = family_of(name) + "Pipeline" == name and not record.deprecated
            if plain and kebab in aliases and kebab not in loader.TASKS and name != "DiffusionPipeline":
                self.assertEqual(aliases[kebab][0], name)

    def test_every_hub_pipeline_tag_is_an_alias(self) -> None:
        self.assertEqual([tag for tag in self.TAGS if tag not in loader.get_task_aliases()], [])

    def test_deprecated_classes_never_come_before_current_ones(self) -> None:
        records = catalog()
        for task in loader.TASKS:
            deprecated = [records[name].deprecated for name in loader.get_task_aliases()[task]]
            self.assertEqual(deprecated, sorted(deprecated), task)

    def test_the_tables_read_from_source_are_those_of_diffusers(self) -> None:
        for task, table in auto_tables().items():
            self.assertEqual(dict(mapping_of(task)), table, task)

    def test_the_signature_alone_agrees_with_diffusers_tables(self) -> None:
        for task, table in auto_tables().items():
            told = [name for name in table.values() if task in tasks_by_signature(name)]
            self.assertGreaterEqual(len(told), TABLES[task][1], task)

    def test_parameters_read_from_source_are_those_of_the_imported_class(self) -> None:
        import inspect

        for name in ("FluxPipeline", "StableDiffusionXLPipeline", "WanVACEPipeline", "DDPMPipeline"):
            call = inspect.signature(loader.get_pipeline_registry()[name].__call__).parameters
            real = {
                key: item.default is item.empty
                for key, item in call.items()
                if key != "self" and item.kind is not item.VAR_KEYWORD
            }
            self.assertEqual(dict(traits_of(name).call), real, name)

    def test_nearly_every_class_has_readable_inputs_and_output(self) -> None:
        names = [
            name
            for name in loader.get_available_pipelines()
            if not name.startswith("AutoPipeline") and name != "DiffusionPipeline"
        ]
        self.assertLess(sum(not traits_of(name).call for name in names), 3)
        self.assertLess(sum(not traits_of(name).kind for name in names), 8)

    def test_the_two_old_helpers_answer_as_before(self) -> None:
        self.assertEqual(loader._camel_to_kebab("StableDiffusionXLPipeline"), "stable-diffusion-xl-pipeline")
        self.assertEqual(loader._camel_to_kebab("FluxPipeline"), "flux-pipeline")
        self.assertIn("stable-diffusion", loader._extract_task_keywords("StableDiffusionPipeline"))
        self.assertLessEqual(
            {"image-to-image", "img2img"}, set(loader._extract_task_keywords("StableDiffusionImg2ImgPipeline"))
        )
        self.assertIn("inpainting", loader._extract_task_keywords("MyOwnInpaintPipeline"))
        self.assertIn("depth-to-image", loader._extract_task_keywords("StableDiffusionDepth2ImgPipeline"))


class SiblingTest(unittest.TestCase):
    def test_diffusers_own_mapping_is_followed(self) -> None:
        from diffusers.pipelines import auto_pipeline

        tables = {task: getattr(auto_pipeline, table) for task, (table, _) in TABLES.items()}
        for own in sorted({cls.__name__ for table in tables.values() for cls in table.values()}):
            for task, table in tables.items():
                wanted = auto_pipeline._get_task_class(table, own, throw_error_if_not_exist=False)
                if wanted is not None and task not in loader.pipeline_tasks(own):
                    self.assertEqual(loader.find_sibling_name(own, task), wanted.__name__, (own, task))

    def test_the_rule_alone_finds_nine_in_ten_of_what_diffusers_maps(self) -> None:
        tables = auto_tables()
        pairs = [
            (own, task, tables[task][key])
            for table in tables.values()
            for key, own in table.items()
            for task in tables
            if key in tables[task] and tables[task][key] != own
        ]
        right = sum(sibling_by_rule(own, task) == wanted for own, task, wanted in pairs)
        self.assertGreater(len(pairs), 100)
        self.assertGreaterEqual(right / len(pairs), 0.9)

    def test_a_class_that_does_the_task_is_its_own_sibling(self) -> None:
        self.assertEqual(loader.find_sibling_name("FluxKontextPipeline", "img2img"), "FluxKontextPipeline")

    def test_a_tag_for_anything_leaves_the_choice_to_the_model(self) -> None:
        self.assertEqual(loader.find_sibling_name("FluxPipeline", "any-to-any"), "FluxPipeline")

    def test_siblings_that_no_table_has(self) -> None:
        for own, task, wanted in (
            ("StableDiffusionPipeline", "controlnet", "StableDiffusionControlNetPipeline"),
            ("ChromaPipeline", "inpaint", "ChromaInpaintPipeline"),
            ("CogVideoXPipeline", "image-to-video", "CogVideoXImageToVideoPipeline"),
            ("LTX2Pipeline", "image-to-video", "LTX2ImageToVideoPipeline"),
            ("AnimateDiffPipeline", "vid2vid", "AnimateDiffVideoToVideoPipeline"),
            ("KandinskyV22Pipeline", "text-to-image", "KandinskyV22CombinedPipeline"),
            ("StableDiffusionImg2ImgPipeline", "text-to-image", "StableDiffusionPipeline"),
        ):
            self.assertEqual(loader.find_sibling_name(own, task), wanted)

    def test_where_none_fits_the_error_lists_the_candidates(self) -> None:
        for own, task in (("StableDiffusionPipeline", "upscaling"), ("DDPMPipeline", "inpainting")):
            with self.assertRaisesRegex(loader.NoSiblingError, f"{own} does .*no sibling for '{task}'.*Pipe"):
                loader.find_sibling(own, task)

    def test_a_class_object_is_taken_too(self) -> None:
        flux = loader.resolve_pipeline_class("FluxPipeline")
        self.assertEqual(loader.find_sibling(flux, "img2img").__name__, "FluxImg2ImgPipeline")


class ResolveTest(unittest.TestCase):
    def test_class_names_are_case_insensitive(self) -> None:
        from diffusers import StableDiffusionPipeline

        self.assertIs(loader.resolve_pipeline_class("stablediffusionpipeline"), StableDiffusionPipeline)

    def test_tasks_are_taken_in_any_spelling(self) -> None:
        for spelling in ("text-to-image", "Text_To_Image", "TXT2IMG"):
            cls = loader.resolve_pipeline_class(task=spelling)
            self.assertEqual(cls.__name__, "AutoPipelineForText2Image")

    def test_a_pipeline_type_may_be_a_class_an_alias_or_a_class_without_its_suffix(self) -> None:
        for text, wanted in (
            ("fluxpipeline", "FluxPipeline"),
            ("flux", "FluxPipeline"),
            ("StableDiffusionXL", "StableDiffusionXLPipeline"),
            ("StableDiffusionImg2Img", "StableDiffusionImg2ImgPipeline"),
            ("Depth2Img", "StableDiffusionDepth2ImgPipeline"),
            ("StableVideoDiffusion", "StableVideoDiffusionPipeline"),
        ):
            self.assertEqual(loader.resolve_pipeline_type(text).__name__, wanted)

    def test_errors_begin_as_callers_know_them_and_lead_with_the_closest(self) -> None:
        cases: list[tuple[Callable[[], Any], str]] = [
            (
                lambda: loader.resolve_pipeline_class("StableDifusionPipeline"),
                r"^Unknown pipeline class 'StableDifusionPipeline'\. Did you mean StableDiffusionPipeline.*"
                r"Available pipelines:",
            ),
            (
                lambda: loader.resolve_pipeline_class(task="text-2-imagee"),
                r"^Unknown task 'text-2-imagee'\. Did you mean text2image.*Available tasks:",
            ),
            (
                lambda: loader.resolve_pipeline_class(),
                r"^Must provide at least one of.*Available pipelines:.*Available tasks:",
            ),
            (lambda: loader.load_diffusers_pipeline("FluxPipeline"), r"^model_id is required"),
            (
                lambda: loader.get_pipeline_info("FluxPipelin"),
                r"^Unknown pipeline: 'FluxPipelin'\. Did you mean FluxPipeline.*Available pipelines:",
            ),
            (lambda: loader.resolve_pipeline_type("fluxx"), r"^Unknown pipeline class 'fluxx'\. Did you mean Flux"),
        ]
        for action, pattern in cases:
            with self.subTest(pattern), self.assertRaisesRegex(ValueError, pattern):
                action()

    def test_a_task_picks_the_sibling_of_the_models_own_class(self) -> None:
        folder = str(zoo.checkpoint("StableDiffusionPipeline"))
        for task, wanted in (
            ("img2img", "StableDiffusionImg2ImgPipeline"),
            ("stable-diffusion", "StableDiffusionPipeline"),
            ("text-to-image", "StableDiffusionPipeline"),
        ):
            self.assertEqual(loader.resolve_pipeline_class(task=task, model_id=folder).__name__, wanted)
        with self.assertRaises(loader.NoSiblingError):
            loader.resolve_pipeline_class(task="text-to-video", model_id=folder)

    def test_a_model_that_nothing_is_known_of_means_diffusion_pipeline_and_a_warning(self) -> None:
        with self.assertLogs("localai_diffusers.discovery", "WARNING") as logged:
            cls = loader.resolve_pipeline_class(model_id="some/nonexistent/model")
        self.assertEqual(cls.__name__, "DiffusionPipeline")
        self.assertIn("some/nonexistent/model", logged.output[0])


class FolderTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, class_name: Any, file: str = "model_index.json") -> str:
        (self.folder / file).write_text(json.dumps({"_class_name": class_name}))
        return str(self.folder)

    def test_the_class_is_the_one_of_model_index_json(self) -> None:
        cls = loader.resolve_pipeline_class(model_id=self.write("DDPMPipeline"))
        self.assertEqual(cls.__name__, "DDPMPipeline")

    def test_a_modular_repo_is_told_apart_and_its_class_found(self) -> None:
        facts = loader.inspect_model(self.write("FluxModularPipeline", "modular_model_index.json"))
        self.assertEqual((facts.class_name, facts.modular), ("FluxModularPipeline", True))
        cls = loader.resolve_pipeline_class(model_id=str(self.folder))
        self.assertEqual(cls.__name__, "FluxModularPipeline")
        with self.assertRaisesRegex(ValueError, "modular pipeline"):
            loader.load_diffusers_pipeline(model_id=str(self.folder))

    def test_code_in_the_repo_is_left_to_diffusers_and_its_trust_rule(self) -> None:
        folder = self.write(["pipeline_x", "XPipeline"])
        self.assertTrue(loader.inspect_model(folder).custom)
        self.assertEqual(loader.resolve_pipeline_class(model_id=folder).__name__, "DiffusionPipeline")

    def test_a_class_that_diffusers_lacks_is_named(self) -> None:
        with self.assertRaisesRegex(ValueError, "^Unknown pipeline class 'FluxPipelin2', named .*mean Flux"):
            loader.load_diffusers_pipeline(model_id=self.write("FluxPipelin2"))

    def test_what_is_no_pipeline_is_refused(self) -> None:
        (self.folder / "config.json").write_text("{}")
        with self.assertRaisesRegex(ValueError, "no model_index.json"):
            loader.load_diffusers_pipeline(model_id=str(self.folder))
        (self.folder / "model_index.json").write_text("{")
        with self.assertRaisesRegex(ValueError, "is not readable JSON"):
            loader.load_diffusers_pipeline(model_id=str(self.folder))
        with self.assertRaisesRegex(loader.MissingModelError, "does not exist"):
            loader.load_diffusers_pipeline(model_id="/nowhere/at/all")


class LoadTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = str(zoo.checkpoint("StableDiffusionPipeline"))

    def test_a_folder_loads_as_its_own_class_its_sibling_or_the_class_asked_for(self) -> None:
        for ask, wanted in (
            ({}, "StableDiffusionPipeline"),
            ({"task": "img2img"}, "StableDiffusionImg2ImgPipeline"),
            ({"class_name": "AutoPipelineForInpainting"}, "StableDiffusionInpaintPipeline"),
            ({"class_name": "diffusionpipeline"}, "StableDiffusionPipeline"),
        ):
            pipe = loader.load_diffusers_pipeline(**ask, model_id=self.folder, safety_checker=None)
            self.assertEqual(type(pipe).__name__, wanted)

    def test_options_reach_from_pretrained_and_the_device_is_set(self) -> None:
        import torch

        pipe = loader.load_diffusers_pipeline(model_id=self.folder, torch_dtype=torch.bfloat16, device="cpu")
        self.assertEqual((pipe.unet.dtype, pipe.device.type), (torch.bfloat16, "cpu"))

    def test_the_device_is_the_first_that_is_there(self) -> None:
        import torch

        with (
            mock.patch.object(torch.cuda, "is_available", return_value=False),
            mock.patch.object(torch.xpu, "is_available", return_value=True),
        ):
            self.assertEqual(loader.pick_device(), "xpu")
        with mock.patch.object(torch.cuda, "is_available", return_value=True):
            self.assertEqual(loader.pick_device(), "cuda")


class OneDtypeTest(unittest.TestCase):
    """A model whose files are fp16 (the shipped one) loads with one dtype, whatever its libraries' defaults."""

    def dtypes(self, **arguments: Any) -> set[Any]:
        pipeline = loader.load_diffusers_pipeline(model_id=str(ROOT / "examples" / "shapes-model"), **arguments)
        parts = [part for part in pipeline.components.values() if hasattr(part, "parameters")]
        return {parameter.dtype for part in parts for parameter in part.parameters()}

    def test_it_is_fp32_on_a_cpu(self) -> None:
        import torch

        with mock.patch.object(load, "pick_device", return_value="cpu"):
            self.assertEqual(self.dtypes(device="auto"), {torch.float32})

    def test_it_is_the_stored_one_on_an_accelerator(self) -> None:
        import torch

        self.assertEqual(self.dtypes(device="meta"), {torch.float16})

    def test_one_that_is_named_stays(self) -> None:
        import torch

        self.assertEqual(self.dtypes(device="cpu", dtype=torch.bfloat16), {torch.bfloat16})


class DeprecatedPackageTest(unittest.TestCase):
    def test_diffusers_finds_the_packages_that_a_model_of_a_deprecated_pipeline_names(self) -> None:
        code = """
            import json, diffusers.pipelines as pipelines
            from localai_diffusers.discovery.deprecated_packages import expose_deprecated
            before = hasattr(pipelines, "unclip")
            saved = ("deprecated", "KarrasVeScheduler")  # so says diffusers when it saves one
            expose_deprecated({("unclip", "X"), ("os", "X"), ("transformers", "X"), saved})
            print(json.dumps([before, hasattr(pipelines, "unclip"), hasattr(pipelines, "transformers"),
                              hasattr(pipelines.deprecated, "KarrasVeScheduler")]))
        """
        self.assertEqual(run_json(code), [False, True, False, True])


class SingleFileTest(unittest.TestCase):
    """A file with a tiny UNet's weights, and one with a key that tells the family of Stable Diffusion 1."""

    @classmethod
    def setUpClass(cls) -> None:
        import torch
        from safetensors.torch import save_file

        cls.config = str(zoo.checkpoint("StableDiffusionPipeline"))
        cls.folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.file = shutil.copy(f"{cls.config}/unet/diffusion_pytorch_model.safetensors", cls.folder)
        cls.ldm = str(cls.folder / "ldm.safetensors")
        save_file({"model.diffusion_model.input_blocks.0.0.bias": torch.zeros(4)}, cls.ldm)

    def load(self, **options: Any) -> Any:
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel

        # their weights are not in the file: diffusers wants such parts passed in
        parts = {
            "vae": AutoencoderKL.from_pretrained(self.config, subfolder="vae"),
            "text_encoder": CLIPTextModel.from_pretrained(self.config, subfolder="text_encoder"),
        }
        return loader.load_diffusers_pipeline(model_id=self.file, config=self.config, **parts, **options)

    def test_the_class_comes_from_the_configs_folder(self) -> None:
        self.assertEqual(type(self.load(from_single_file=True)).__name__, "StableDiffusionPipeline")

    def test_an_auto_class_or_a_task_means_the_familys_class_for_it(self) -> None:
        for ask in ({"class_name": "AutoPipelineForImage2Image"}, {"task": "img2img"}):
            self.assertEqual(type(self.load(**ask)).__name__, "StableDiffusionImg2ImgPipeline")

    def test_a_class_without_from_single_file_says_so(self) -> None:
        with self.assertRaisesRegex(ValueError, "WanPipeline can't load a single file"):
            self.load(class_name="WanPipeline")

    def test_weights_of_no_known_family_are_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "fit no family"):
            loader.load_diffusers_pipeline(model_id=self.file)
        broken = self.folder / "broken.safetensors"
        broken.write_bytes(b"not a checkpoint")
        with self.assertRaisesRegex(ValueError, "header is broken"):
            loader.load_diffusers_pipeline(model_id=str(broken))

    def test_offline_without_a_config_the_error_says_what_to_pass(self) -> None:
        with tempfile.TemporaryDirectory() as cache:
            message = load_errors(hub_environment(closed_port_url(), cache, HF_HUB_OFFLINE="1"), self.ldm)[0]
        self.assertTrue(message.startswith("UnreachableHubError"), message)
        self.assertIn("pass config= a local folder", message)

    def test_the_hub_names_the_class_of_the_family_that_the_weights_show(self) -> None:
        repo = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        with (
            tempfile.TemporaryDirectory() as cache,
            FakeHub(cache, {repo: {"config": {"diffusers": {"_class_name": "StableDiffusionPipeline"}}}}) as hub,
        ):
            code = """
                import sys, diffusers_dynamic_loader as loader
                print('"' + loader.resolve_checkpoint_class(sys.argv[1], "inpaint").__name__ + '"')
            """
            found = run_json(code, hub.environment(cache), self.ldm)
        self.assertEqual(found, "StableDiffusionInpaintPipeline")


def load_errors(environment: dict[str, str], *models: str) -> list[str]:
    """`Class: message` of what loading each model raises in a fresh process."""
    code = """
        import sys, json, diffusers_dynamic_loader as loader
        said = []
        for model in sys.argv[1:]:
            try:
                loader.load_diffusers_pipeline(model_id=model)
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
        print(json.dumps(said))
    """
    return run_json(code, environment, *models)


class HubTest(unittest.TestCase):
    """The real huggingface_hub client against a small server."""

    heavy = True

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        shutil.copytree(zoo.checkpoint("StableDiffusionPipeline"), cls.folder / "owner" / "tiny")
        (cls.folder / "owner" / "modular").mkdir()
        (cls.folder / "owner" / "modular" / "modular_model_index.json").write_text(
            json.dumps({"_class_name": "WanModularPipeline"})
        )
        flux = {"config": {"diffusers": {"_class_name": "FluxPipeline"}}}
        cls.hub = cls.enterClassContext(
            FakeHub(
                cls.folder,
                token="hf_right",
                denied={"owner/gated": 403, "owner/login": 401, "owner/down": 503},
                facts={
                    "owner/named": flux | {"pipeline_tag": "text-to-image"},
                    "owner/gated": flux,
                    "owner/tagged": {"pipeline_tag": "text-to-video"},
                    "owner/mute": {},
                },
            )
        )

    def setUp(self) -> None:
        self.cache = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.cache)
        self.hub.requests.clear()

    def classes(self, *models: str, **environment: str) -> list[str]:
        code = """
            import sys, json, logging, diffusers_dynamic_loader as loader
            logging.basicConfig(level="WARNING", stream=sys.stdout, format="%(message)s")
            classes = [loader.resolve_pipeline_class(model_id=model) for model in sys.argv[1:]]
            print(json.dumps([cls.__name__ for cls in classes]))
        """
        self.output = run_python(code, self.hub.environment(self.cache, **environment), *models)
        return json.loads(self.output.splitlines()[-1])

    def named(self, model: str, **environment: str) -> str:
        """The class that a repo names, or the error; torch is not imported for it."""
        code = """
            import sys, json, diffusers_dynamic_loader as loader
            try:
                print(json.dumps(loader.inspect_model(sys.argv[1]).class_name))
            except loader.HubError as error:
                print(json.dumps(str(error)))
        """
        return run_json(code, self.hub.environment(self.cache, **environment), model)

    def test_model_info_tells_the_class_or_the_pipeline_tag_or_the_fallback_warns(self) -> None:
        found = self.classes(
            "owner/named", "owner/tagged", "owner/mute", "owner/modular", "owner/missing", "owner/gated"
        )
        self.assertEqual(
            found,
            [
                "FluxPipeline",
                "WanPipeline",
                "DiffusionPipeline",
                "WanModularPipeline",
                "DiffusionPipeline",
                "DiffusionPipeline",
            ],
        )
        for said in (
            "owner/mute: falling back to DiffusionPipeline",
            "owner/missing' was not found",
            "owner/gated' is gated",
        ):
            self.assertIn(said, self.output)

    def test_the_token_is_sent_and_opens_a_gated_repo(self) -> None:
        self.assertEqual(self.named("owner/gated", HF_TOKEN="hf_right"), "FluxPipeline")
        self.assertEqual(self.hub.requests[0], ("GET", "/api/models/owner/gated", "Bearer hf_right"))

    def test_offline_mode_sends_nothing(self) -> None:
        self.assertIn("unset HF_HUB_OFFLINE", self.named("owner/named", HF_HUB_OFFLINE="1"))
        self.assertEqual(self.hub.requests, [])

    def test_an_error_of_another_sort_stays_as_it_is(self) -> None:
        import huggingface_hub

        from localai_diffusers.discovery import hub

        with (
            mock.patch.object(huggingface_hub, "model_info", side_effect=RuntimeError("odd")),
            self.assertRaisesRegex(RuntimeError, "odd"),
        ):
            hub.inspect_model("owner/name")

    def test_loading_says_gated_missing_or_unreachable(self) -> None:
        expected = {
            "owner/gated": "^GatedModelError.*HF_TOKEN",
            "owner/login": "^GatedModelError.*HTTP 401",
            "owner/missing": "^MissingModelError.*spelling",
            "owner/down": "^UnreachableHubError.*HTTP 503",
        }
        said = load_errors(self.hub.environment(self.cache), *expected)
        for message, pattern in zip(said, expected.values(), strict=True):
            self.assertRegex(message, pattern)
        dead = load_errors(hub_environment(closed_port_url(), self.cache), "owner/tiny")[0]
        self.assertTrue(dead.startswith("UnreachableHubError"), dead)
        self.assertNotIn("refused", dead)

    def test_a_repo_is_downloaded_once_and_then_loads_from_the_cache_offline(self) -> None:
        code = """
            import sys, json, diffusers_dynamic_loader as loader
            kinds = [type(loader.load_diffusers_pipeline(model_id="owner/tiny", **ask)).__name__
                     for ask in ({}, {"task": "img2img"}, {"class_name": "StableDiffusionInpaintPipeline"})]
            print(json.dumps(kinds))
        """
        wanted = ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"]
        self.assertEqual(run_json(code, self.hub.environment(self.cache)), wanted)
        self.hub.requests.clear()
        self.assertEqual(run_json(code, self.hub.environment(self.cache, HF_HUB_OFFLINE="1")), wanted)
        self.assertEqual(self.hub.requests, [])

    def test_an_explicit_class_gets_the_clear_errors_too(self) -> None:
        code = """
            import json, diffusers_dynamic_loader as loader
            def said(model):
                try:
                    loader.load_diffusers_pipeline("DDPMPipeline", model_id=model)
                except loader.HubError as error:
                    return f"{type(error).__name__}: {error}"
            print(json.dumps([said("owner/gated"), said("owner/missing"), said("owner/modular")]))
        """
        gated, missing, fileless = run_json(code, self.hub.environment(self.cache))
        self.assertRegex(gated, "^GatedModelError: 'owner/gated' is gated")
        self.assertRegex(missing, "^MissingModelError: 'owner/missing' was not found")
        self.assertRegex(fileless, "^MissingModelError: 'owner/modular' has no file 'model_index.json'")

    def test_without_huggingface_hub_folders_still_resolve_and_repos_say_what_is_missing(self) -> None:
        with mock.patch.dict(sys.modules, {"huggingface_hub": None}):
            cls = loader.resolve_pipeline_class(model_id=str(self.folder / "owner" / "tiny"))
            self.assertEqual(cls.__name__, "StableDiffusionPipeline")
            with self.assertRaisesRegex(loader.UnreachableHubError, "pip install huggingface_hub"):
                loader.inspect_model("owner/tiny")


class DiscoverTest(unittest.TestCase):
    def test_schedulers_are_found_from_their_own_modules(self) -> None:
        found = loader.discover_diffusers_classes("SchedulerMixin")
        self.assertIs(found, loader.discover_diffusers_classes("SchedulerMixin"))
        self.assertIs(type(found), dict)
        self.assertIn("EulerDiscreteScheduler", found)
        self.assertNotIn("dummy", found["LMSDiscreteScheduler"].__module__)
        self.assertEqual(loader.get_available_classes("SchedulerMixin"), sorted(found))

    def test_names_alone_are_read_from_the_source_and_nothing_is_imported(self) -> None:
        code = """
            import json, sys, diffusers_dynamic_loader as loader
            names = loader.get_available_classes("ModularPipeline")
            print(json.dumps([names, [module for module in ("torch", "diffusers") if module in sys.modules]]))
        """
        names, imported = run_json(code)
        self.assertEqual(imported, [])
        self.assertEqual(names, sorted(loader.discover_diffusers_classes("ModularPipeline")))

    def test_the_base_is_left_out_when_asked_and_both_answers_are_kept_apart(self) -> None:
        self.assertIn("SchedulerMixin", loader.discover_diffusers_classes("SchedulerMixin"))
        without = loader.discover_diffusers_classes("SchedulerMixin", include_base=False)
        self.assertNotIn("SchedulerMixin", without)

    def test_an_unknown_base_leads_with_the_closest(self) -> None:
        with self.assertRaisesRegex(ValueError, "base class 'ShedulerMixin'.*Did you mean SchedulerMixin"):
            loader.discover_diffusers_classes("ShedulerMixin")


class InfoTest(unittest.TestCase):
    def test_it_tells_what_a_caller_needs(self) -> None:
        info = loader.get_pipeline_info("stablediffusionpipeline")
        self.assertEqual((info["name"], info["output"]), ("StableDiffusionPipeline", "image"))
        self.assertTrue(info["supports_single_file"] and info["supports_lora"] and info["docstring"])
        self.assertLessEqual({"text-to-image", "stable-diffusion"}, set(info["aliases"]))
        steps = {"required": False, "default": 50, "type": "int"}
        self.assertEqual(info["inputs"]["num_inference_steps"], steps)
        self.assertTrue(info["components"]["unet"]["required"])
        self.assertFalse(info["components"]["safety_checker"]["required"])

    def test_classes_without_a_call_have_empty_inputs(self) -> None:
        for name in ("DiffusionPipeline", "AutoPipelineForText2Image"):
            self.assertEqual(loader.get_pipeline_info(name)["inputs"], {})


if __name__ == "__main__":
    unittest.main()
