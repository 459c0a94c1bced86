# SPDX-License-Identifier: MIT
"""Promises of localai_diffusers.media.meshes: a .glb that says what the mesh says."""

from __future__ import annotations

import json
import struct
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from localai_diffusers.errors import GenerationFailed
from localai_diffusers.media import meshes

VERTS = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
CHANNELS = {"R": np.array([0, 1, 0.5, 1.0]), "G": np.array([0, 0, 0.5, 1.0]), "B": np.array([0, 0, 0.5, 2.0])}
DTYPES = {5126: "<f4", 5125: "<u4", 5121: "u1"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


def mesh(**parts: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"verts": VERTS, "faces": FACES, "vertex_channels": CHANNELS} | parts))


def parsed(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The glTF document and the content of each accessor, read by the book."""
    data = path.read_bytes()
    magic, version, total = struct.unpack_from("<4sII", data)
    assert (magic, version, total) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    document = json.loads(data[20 : 20 + length])
    assert kind == b"JSON" and length % 4 == 0
    size, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0" and size % 4 == 0 and size == document["buffers"][0]["byteLength"]
    binary = data[28 + length :]
    arrays = []
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        chunk = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        values = np.frombuffer(chunk, DTYPES[accessor["componentType"]])
        arrays.append(values.reshape(accessor["count"], WIDTHS[accessor["type"]]))
    return document, arrays


class Glb(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.path = Path(holder.name, "mesh.glb")

    def test_vertices_triangles_and_bounds_come_back_with_y_up(self) -> None:
        self.assertEqual(meshes.encode_glb(mesh(), self.path), (4, 4))
        document, (positions, indices, _) = parsed(self.path)
        np.testing.assert_array_equal(positions, VERTS[:, [0, 2, 1]] * (1, 1, -1))
        np.testing.assert_array_equal(indices.reshape(-1, 3), FACES)
        accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
        self.assertEqual((accessor["min"], accessor["max"]), ([0, 0, -2], [1, 3, 0]))

    def test_vertex_colors_are_linear_light(self) -> None:
        meshes.encode_glb(mesh(), self.path)
        document, arrays = parsed(self.path)
        self.assertEqual(document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"], 2)
        expected = [[0, 0, 0, 255], [255, 0, 0, 255], [55, 55, 55, 255], [255, 255, 255, 255]]
        np.testing.assert_array_equal(arrays[2], expected)

    def test_a_mesh_without_colors_has_none(self) -> None:
        for channels in ({}, None, {"R": CHANNELS["R"]}, {name: np.zeros(2) for name in "RGB"}):
            meshes.encode_glb(mesh(vertex_channels=channels), self.path)
            document, _ = parsed(self.path)
            self.assertNotIn("COLOR_0", document["meshes"][0]["primitives"][0]["attributes"])

    def test_tensors_of_any_precision_are_taken(self) -> None:
        import torch

        parts = {"verts": torch.tensor(VERTS, dtype=torch.bfloat16), "faces": torch.tensor(FACES)}
        channels = {name: torch.tensor(values, dtype=torch.float16) for name, values in CHANNELS.items()}
        meshes.encode_glb(mesh(**parts, vertex_channels=channels), self.path)
        self.assertEqual(len(parsed(self.path)[1][0]), 4)

    def test_empty_and_broken_meshes_are_errors(self) -> None:
        bad = (
            {"verts": np.zeros((0, 3)), "faces": np.zeros((0, 3), int)},
            {"faces": np.zeros((0, 3), int)},
            {"faces": FACES + 9},
            {"faces": FACES - 1},
            {"verts": VERTS * np.nan},
        )
        for parts in bad:
            with self.assertRaises(GenerationFailed):
                meshes.encode_glb(mesh(**parts), self.path)
            self.assertFalse(self.path.exists())


if __name__ == "__main__":
    unittest.main()
