# SPDX-License-Identifier: MIT
"""scripts/merge_into_localai.py on an imitation of LocalAI's tree: each change, once, and no other."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import unittest

import yaml

from tests.support import HOME, FolderCase

MATRIX, INDEX, DEPENDABOT, CAPABILITIES = (
    ".github/backend-matrix.yml",
    "backend/index.yaml",
    ".github/dependabot.yml",
    "core/config/backend_capabilities.go",
)


def row(build: str, suffix: str, backend: str, cuda: str = "") -> str:
    return textwrap.indent(
        f"- build-type: '{build}'\n  cuda-major-version: \"{cuda}\"\n  platforms: 'linux/arm64'\n"
        f'  tag-suffix: \'{suffix}\'\n  backend: "{backend}"\n  dockerfile: "./backend/Dockerfile.python"\n',
        "  ",
    )


TREE = {
    MATRIX: "include:\n"
    + row("l4t", "-nvidia-l4t-kokoro", "kokoro", "12")
    + row("l4t", "-nvidia-l4t-diffusers", "diffusers", "12")
    + "  # CUDA 13\n"
    + row("l4t", "-nvidia-l4t-cuda-13-arm64-diffusers", "diffusers", "13"),
    INDEX: textwrap.dedent(
        """\
        - &diffusers
          name: "diffusers"
          capabilities:
            nvidia: "cuda12-diffusers"
            nvidia-l4t: "nvidia-l4t-diffusers"
            nvidia-l4t-cuda-12: "nvidia-l4t-diffusers"
            nvidia-l4t-cuda-13: "cuda13-nvidia-l4t-arm64-diffusers"
            default: "cpu-diffusers"
        - !!merge <<: *diffusers
          name: "diffusers-development"
          capabilities:
            nvidia-l4t: "nvidia-l4t-diffusers-development"
            default: "cpu-diffusers-development"
        - !!merge <<: *diffusers
          name: "nvidia-l4t-diffusers"
          uri: "quay.io/go-skynet/local-ai-backends:latest-nvidia-l4t-diffusers"
        - !!merge <<: *diffusers
          name: "nvidia-l4t-diffusers-development"
          uri: "quay.io/go-skynet/local-ai-backends:master-nvidia-l4t-diffusers"
        - !!merge <<: *diffusers
          name: "cpu-diffusers"
          uri: "quay.io/go-skynet/local-ai-backends:latest-cpu-diffusers"
        """
    ),
    DEPENDABOT: textwrap.dedent(
        """\
        version: 2
        updates:
          - package-ecosystem: "pip"
            directory: "/backend/python/diffusers"
            schedule:
              interval: "weekly"
            # torch and transformers are pinned here, and the l4t12 variant
            # resolves them from another index.
            ignore:
            - dependency-name: "torch"
            - dependency-name: "transformers"
            open-pull-requests-limit: 3
          - package-ecosystem: "pip"
            directory: "/backend/python/rerankers"
            schedule:
              interval: "weekly"
        """
    ),
    CAPABILITIES: textwrap.dedent(
        """\
        var BackendCapabilities = map[string]BackendCapability{
        \t"diffusers": {
        \t\tGRPCMethods:      []GRPCMethod{MethodGenerateImage, MethodUpscaleImage, MethodGenerateVideo},
        \t\tPossibleUsecases: []string{UsecaseImage, UsecaseVideo},
        \t\tDefaultUsecases:  []string{UsecaseImage},
        \t\tDescription:      "HuggingFace diffusers",
        \t},
        \t"longcat-video": {
        \t\tGRPCMethods:      []GRPCMethod{MethodGenerateVideo},
        \t},
        }
        """
    ),
}


class MergeTest(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        for name, text in TREE.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)

    def merge(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(HOME / "scripts" / "merge_into_localai.py"), str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def test_each_change_is_made_once(self) -> None:
        self.assertEqual(self.merge().stdout.count(": changed"), 4)
        made = {name: self.read(name) for name in TREE}
        rows = [row["tag-suffix"] for row in yaml.safe_load(made[MATRIX])["include"]]
        self.assertEqual(rows, ["-nvidia-l4t-kokoro", "-nvidia-l4t-cuda-13-arm64-diffusers"])
        entries = yaml.safe_load(made[INDEX])
        self.assertEqual([one["name"] for one in entries], ["diffusers", "diffusers-development", "cpu-diffusers"])
        self.assertEqual(set(entries[0]["capabilities"]), {"nvidia", "nvidia-l4t-cuda-13", "default"})
        blocks = yaml.safe_load(made[DEPENDABOT])["updates"]
        self.assertEqual(
            [one["dependency-name"] for one in blocks[0]["ignore"]],
            ["torch", "torchvision", "diffusers", "transformers"],
        )
        self.assertEqual(blocks[0]["open-pull-requests-limit"], 3, "what else stands there stays")
        self.assertEqual((len(blocks), blocks[1].get("ignore")), (2, None))
        self.assertIn("MethodGenerateVideo, MethodSoundGeneration, MethodGenerate3D, MethodDepth}", made[CAPABILITIES])
        self.assertIn("UsecaseSoundGeneration, Usecase3D, UsecaseDepth}", made[CAPABILITIES])
        self.assertIn(
            '\t"longcat-video": {\n\t\tGRPCMethods:      []GRPCMethod{MethodGenerateVideo},', made[CAPABILITIES]
        )
        self.assertEqual(self.merge().stdout.count(": as it is"), 4)
        self.assertEqual({name: self.read(name) for name in TREE}, made)

    def test_what_the_backend_serves_is_what_it_says(self) -> None:
        """The RPCs of the list are those of backend.py that make something."""
        import backend

        self.merge()
        listed = self.read(CAPABILITIES).split("GRPCMethod{")[1].split("}")[0].split(", ")
        own = vars(backend.BackendServicer)
        self.assertEqual([name for name in listed if name.removeprefix("Method") not in own], [])

    def test_a_place_that_is_not_there_is_told_and_nothing_is_written(self) -> None:
        (self.folder / CAPABILITIES).write_text("package config\n")
        said = self.merge()
        self.assertEqual(said.returncode, 1)
        self.assertIn(f'{CAPABILITIES}: the entry "diffusers"', said.stderr)
        self.assertEqual(self.read(MATRIX), TREE[MATRIX])


if __name__ == "__main__":
    unittest.main()
