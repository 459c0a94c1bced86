# SPDX-License-Identifier: MIT
"""Triangle meshes: a minimal writer of binary glTF 2.0 (.glb), positions, indices and vertex colors.

Layout after the Khronos glTF 2.0 specification, section 4.4: a 12-byte header, a JSON chunk padded with
spaces, a BIN chunk padded with zeros, every buffer view on a multiple of 4 bytes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from localai_diffusers.errors import GenerationFailed

_FLOAT, _UINT32, _UINT8 = 5126, 5125, 5121
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_TRIANGLES = 4


def encode_glb(mesh: Any, path: Path, comment: str = "") -> tuple[int, int]:
    """Write ``mesh`` to ``path`` as .glb; returns (number of vertices, number of triangles). ``comment``: text in
    the asset's extras.

    mesh: ``verts`` (N, 3) floats, ``faces`` (M, 3) indices, and optionally ``vertex_channels``, a mapping
    with "R", "G", "B" of N values 0..1 each (diffusers' MeshDecoderOutput): tensors or arrays. Shap-E's z
    axis points up, glTF's y axis does, hence the turn. Raises GenerationFailed for an empty or broken mesh.
    """
    verts = _array(mesh.verts, np.float32)
    faces = _array(mesh.faces, np.int64)
    if verts.ndim != 2 or verts.shape[1:] != (3,) or not len(verts) or not len(faces):
        raise GenerationFailed(
            f"the pipeline returned an empty mesh ({len(verts)} vertices, {len(faces)} triangles); "
            "try more steps or another seed"
        )
    if faces.shape[1:] != (3,) or faces.min() < 0 or faces.max() >= len(verts) or not np.isfinite(verts).all():
        raise GenerationFailed("the pipeline returned a broken mesh (indices or coordinates out of range)")
    verts = np.stack([verts[:, 0], verts[:, 2], -verts[:, 1]], axis=1)
    document, binary = _document(verts, faces.astype("<u4"), _colors(mesh, len(verts)))
    if comment:
        document["asset"]["extras"] = {"parameters": comment}
    path.write_bytes(_chunks(document, binary))
    return len(verts), len(faces)


def _array(value: Any, dtype: Any) -> np.ndarray:
    value = value.detach().cpu() if hasattr(value, "detach") else value
    return np.asarray(
        value.float() if hasattr(value, "is_floating_point") and value.is_floating_point() else value,
        dtype=dtype,
    )


def _colors(mesh: Any, count: int) -> np.ndarray | None:
    """uint8 (N, 4) in linear light, as glTF's COLOR_0 is, from 0..1 sRGB channels; None if the mesh has
    none.
    """
    channels = getattr(mesh, "vertex_channels", None) or {}
    if not all(name in channels for name in "RGB"):
        return None
    colors = np.stack([_array(channels[name], np.float32).reshape(-1) for name in "RGB"], axis=1)
    if len(colors) != count:
        return None
    colors = np.clip(np.nan_to_num(colors), 0.0, 1.0)
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    opaque = np.ones((count, 1), np.float32)
    return np.rint(np.hstack([linear, opaque]) * 255).astype(np.uint8)


def _document(verts: np.ndarray, faces: np.ndarray, colors: np.ndarray | None) -> tuple[dict[str, Any], bytes]:
    """The glTF document and the bytes of its one buffer."""
    verts = verts.astype("<f4")
    bounds = {"min": verts.min(axis=0).tolist(), "max": verts.max(axis=0).tolist()}
    parts = [
        (verts.tobytes(), _ARRAY_BUFFER, _accessor(_FLOAT, len(verts), "VEC3") | bounds),
        (faces.tobytes(), _ELEMENT_ARRAY_BUFFER, _accessor(_UINT32, faces.size, "SCALAR")),
    ]
    attributes = {"POSITION": 0}
    if colors is not None:
        parts.append((colors.tobytes(), _ARRAY_BUFFER, _accessor(_UINT8, len(colors), "VEC4") | {"normalized": True}))
        attributes["COLOR_0"] = 2
    views, accessors, binary = [], [], b""
    for index, (content, target, accessor) in enumerate(parts):
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(content), "target": target})
        accessors.append(accessor | {"bufferView": index})
        binary += content  # each is a multiple of 4 bytes: 12, 4 and 4 an element
    primitive = {"attributes": attributes, "indices": 1, "mode": _TRIANGLES, "material": 0}
    return _scene(primitive, views, accessors, len(binary)), binary


def _accessor(component: int, count: int, kind: str) -> dict[str, Any]:
    return {"componentType": component, "count": count, "type": kind}


def _scene(
    primitive: dict[str, Any], views: list[dict[str, Any]], accessors: list[dict[str, Any]], size: int
) -> dict[str, Any]:
    material = {"doubleSided": True, "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}}
    return {
        "asset": {"version": "2.0", "generator": "localai-diffusers"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [material],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": size}],
    }


def _chunks(document: dict[str, Any], binary: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, total),
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            binary,
        ]
    )
