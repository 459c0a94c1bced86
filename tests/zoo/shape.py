# SPDX-License-Identifier: MIT
"""Shap-E's renderer made to give a mesh: marching cubes tables and a smooth field."""

from __future__ import annotations

import itertools
from typing import Any

# Corner k of a cube lies at (k & 1, k >> 1 & 1, k >> 2 & 1). The edges in the order that the renderer numbers
# them: along x, then y, then z, in each the other two coordinates counting up with the earlier axis first.
EDGES = tuple((corner, corner | 1 << axis) for axis in range(3) for corner in range(8) if not corner >> axis & 1)
# The six faces, each going around its corners the same way as seen from outside.
FACES = tuple(
    (base, base | 1 << first, base | 1 << first | 1 << second, base | 1 << second)
    for axis in range(3)
    for base, first, second in ((0, (axis + 2) % 3, (axis + 1) % 3), (1 << axis, (axis + 1) % 3, (axis + 2) % 3))
)


def _links(inside: int) -> dict[int, int]:
    """From each cut edge of a cube to the next along the surface: on each face, around every run of inside
    corners.

    inside: bit k says that corner k is inside. An ambiguous face (two opposite corners inside) keeps them
    apart, on both cubes that share it, so that surfaces close; every loop goes the same way around, so that
    faces look outward.
    """
    number = {frozenset(edge): index for index, edge in enumerate(EDGES)}
    found: dict[int, int] = {}
    for corners in FACES:
        flags = [bool(inside >> corner & 1) for corner in corners]
        for start in range(4):
            if not flags[start] or flags[start - 1]:
                continue
            end = start
            while flags[(end + 1) % 4]:
                end += 1
            leave = number[frozenset((corners[end % 4], corners[(end + 1) % 4]))]
            found[leave] = number[frozenset((corners[start - 1], corners[start]))]
    return found


def triangles(inside: int) -> list[tuple[int, int, int]]:
    """The triangles (edge numbers) of one of the 256 cubes: the loops of its cut edges, each as a fan."""
    links, result = _links(inside), []
    while links:
        loop = [next(iter(links))]
        while (onward := links.pop(loop[-1])) != loop[0]:
            loop.append(onward)
        result += [(loop[0], third, second) for second, third in itertools.pairwise(loop[1:])]
    return result


def give_shape(renderer: Any) -> Any:
    """Fill the renderer's tables, which a real checkpoint carries, and calm its field down; returns it."""
    import torch

    decoder = renderer.mesh_decoder
    for inside in range(256):
        for index, triangle in enumerate(triangles(inside)):
            decoder.cases[inside, index] = torch.tensor(triangle)
            decoder.masks[inside, index] = True
    with torch.no_grad():
        _smooth(renderer.params_proj.projections)
        _center(renderer)
    return renderer


def _smooth(projections: Any) -> None:
    """Let the latents change the field's weights a little, and its first layer see only what varies slowly.

    That is x, y, z and their cosines: with random weights on the fourteen doublings of the frequency, too,
    the surface would be noise with a million faces.
    """
    import torch

    for projection in projections.values():
        projection.norm.weight.mul_(0.1)
        projection.proj.bias.mul_(6.0)
    slow = torch.zeros(93)
    slow[0:3], slow[48:51] = 0.5, 1.0
    first = next(iter(projections.values()))
    first.norm.weight.mul_(slow)
    first.proj.bias.view(-1, 93).mul_(slow)


def _center(renderer: Any) -> None:
    """Scale and shift the distance head so that about a tenth of the volume is inside."""
    import torch

    axis = torch.linspace(-1, 1, 16)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(1, -1, 3)
    weights = {
        name: projection.proj.bias.view(projection.vectors, projection.channels)
        for name, projection in renderer.params_proj.projections.items()
    }
    for layer, weight in zip(renderer.mlp.mlp, weights.values(), strict=False):  # the last layer has no projection
        layer.weight.copy_(weight)
    field = renderer.mlp(position=points, direction=None, ts=None, nerf_level="fine", rendering_mode="stf")
    raw, head = torch.atanh(field.signed_distance.flatten().clamp(-0.999, 0.999)), renderer.mlp.mlp[-1]
    head.weight[0] /= raw.std()
    head.bias[0] = (head.bias[0] - raw.quantile(0.9)) / raw.std()
