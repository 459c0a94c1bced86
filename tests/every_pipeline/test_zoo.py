# SPDX-License-Identifier: MIT
"""The zoo itself: every checkpoint builds, loads by plain diffusers, names its class and stays small."""

from __future__ import annotations

import json
import unittest
from pathlib import Path

from tests import zoo

LARGEST = 5_000_000  # bytes; most have less than three millions
WIDE = {"hunyuan-video-1.5": 20_000_000}  # its embedder of ByT5 is 2,048 wide whatever the configuration says


def size(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class ZooTest(unittest.TestCase):
    def test_every_entry_is_a_small_folder_that_names_its_class(self) -> None:
        for name, entry in zoo.ENTRIES.items():
            with self.subTest(name):
                folder = zoo.checkpoint(name)
                index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
                self.assertEqual(index["_class_name"], entry.pipeline)
                self.assertLess(size(folder), WIDE.get(entry.family, LARGEST))

    def test_one_entry_of_each_family_loads_by_its_folder_alone(self) -> None:
        """By plain diffusers; the server loads every one (tests/every_pipeline/test_zoo_server.py)."""
        import diffusers
        from diffusers import DiffusionPipeline

        from tests.zoo.kit import resolve, restore_moved, silent

        silent()
        for name, entry in {entry.family: (name, entry) for name, entry in zoo.ENTRIES.items()}.values():
            with self.subTest(name):
                restore_moved(zoo.checkpoint(name))
                # diffusers shows a stand-in for ConsisID where OpenCV is not: its own class needs none for this
                is_shown = (
                    hasattr(diffusers, entry.pipeline) and "dummy" not in getattr(diffusers, entry.pipeline).__module__
                )
                loader = DiffusionPipeline if is_shown else resolve(entry.pipeline)
                pipe = loader.from_pretrained(zoo.checkpoint(name), local_files_only=True)
                self.assertEqual(type(pipe).__name__, entry.pipeline)

    def test_a_second_build_has_the_same_weights(self) -> None:
        """In one process: another processor's random numbers have other last digits."""
        from tests.zoo import kit

        builds = []
        for _ in range(2):
            kit._MODELS.clear()
            builds.append(zoo.ENTRIES["DDPMPipeline"].build().unet.state_dict())
        self.assertTrue(all(builds[0][key].equal(builds[1][key]) for key in builds[0]))

    def test_it_covers_sixty_classes_of_twenty_five_families_and_every_kind(self) -> None:
        entries = zoo.ENTRIES.values()
        self.assertGreaterEqual(len({entry.pipeline for entry in entries}), 60)
        self.assertGreaterEqual(len({entry.family for entry in entries}), 25)
        self.assertLessEqual(
            {"image", "video", "video+audio", "audio", "mesh", "depth"}, {entry.kind for entry in entries}
        )

    def test_every_input_that_an_entry_needs_is_a_parameter_of_its_class(self) -> None:
        import inspect

        from localai_diffusers.pipeline.signatures import parameters_of
        from tests.zoo.kit import resolve

        for name, entry in zoo.ENTRIES.items():
            with self.subTest(name):
                cls = resolve(entry.pipeline)
                inverts = inspect.signature(cls.invert).parameters if hasattr(cls, "invert") else ()
                self.assertLessEqual(set(entry.needs), {*parameters_of(cls), *inverts})


if __name__ == "__main__":
    unittest.main()
