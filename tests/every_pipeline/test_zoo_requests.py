# SPDX-License-Identifier: MIT
"""Random requests of every RPC to models of every kind: answered by OK or a status of the contract, soon, and the good
request after them is as right as the one before.
"""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

import grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import backend_pb2
from diffusers_dynamic_loader import get_pipeline_registry
from localai_diffusers.pipeline.signatures import parameters_of
from tests import zoo
from tests.every_pipeline.test_zoo_server import _REQUESTS, contents, image_request
from tests.rpc import RpcCase
from tests.server.test_bad_requests import EXPECTED, FEW

# Of every kind of output and input the quickest, and how many requests each is sent.
CLASSES = {
    "StableDiffusionXLPipeline": 12,
    "StableDiffusionInpaintPipeline": 12,
    "FluxImg2ImgPipeline": 12,
    "WanPipeline": 10,
    "LTXImageToVideoPipeline": 10,
    "StableAudioPipeline": 10,
    "ShapEImg2ImgPipeline": 4,
    "MarigoldDepthPipeline": 10,
}
UNCOMPARED = ("audio", "depth", "mesh")  # no seed is asked for, or making one takes seconds
SOON = 20
TEXTS = st.sampled_from(["", "a cat", "(((", "a:1.5)", "{}", "%s%n", "\n\n", "é𝕏" * 20, "x " * 200, "1"]) | st.text(
    max_size=20
)
SIDES = st.sampled_from([1, 16, 33, 64])
VALUES = st.sampled_from(
    ["0", "1", "-1", "0.5", "2", "true", "null", "[]", "[1,2]", "[[1,2],[3,4]]", "{}", '{"scale": 0.5}', "abc", ""]
)
PICTURES = ("picture.png", "second.png", "mask.png", "tiny", "wide", "gray", "alpha", "clip.mp4", "mono.wav")
ODD_PICTURES = {
    "tiny": Image.new("RGB", (1, 1), "red"),
    "wide": Image.new("RGB", (300, 3), "red"),
    "gray": Image.new("L", (40, 56), 99),
    "alpha": Image.new("RGBA", (65, 63), (1, 2, 3, 4)),
}
SEEDS = st.sampled_from([-1, 0, 2**31 - 1])
STEPS = st.integers(1, 2)
# Always said: the defaults of the real models make large pictures and long clips, in many steps.
SIZED = {"width": SIDES, "height": SIDES, "step": STEPS}
SAID: dict[str, dict[str, Any]] = {
    "GenerateImage": SIZED,
    "GenerateVideo": {**SIZED, "num_frames": st.integers(1, 9)},
    "Generate3D": {"step": STEPS},
}
# RPC -> message, its text, the fields that take one picture, the others.
RPCS: dict[str, tuple[Any, str, tuple[str, ...], dict[str, Any]]] = {
    "GenerateImage": (
        backend_pb2.GenerateImageRequest,
        "positive_prompt",
        ("src",),
        {"seed": SEEDS, "negative_prompt": TEXTS, "CLIPSkip": st.integers(0, 3)},
    ),
    "GenerateVideo": (
        backend_pb2.GenerateVideoRequest,
        "prompt",
        ("start_image", "end_image"),
        {"seed": SEEDS, "fps": st.integers(0, 30), "cfg_scale": st.sampled_from([0.0, 1.0, 100.0])},
    ),
    "SoundGeneration": (
        backend_pb2.SoundGenerationRequest,
        "text",
        ("src",),
        {"duration": st.sampled_from([0.0, 0.1, 0.5]), "bpm": st.integers(-1, 300), "lyrics": TEXTS, "language": TEXTS},
    ),
    "Generate3D": (backend_pb2.Generate3DRequest, "", ("src",), {"seed": SEEDS, "cfg_scale": st.just(3.0)}),
    "UpscaleImage": (backend_pb2.UpscaleImageRequest, "", ("src",), {"scale": st.integers(0, 4)}),
    "Depth": (backend_pb2.DepthRequest, "", ("src",), {"include_depth": st.booleans()}),
}
WITH_PARAMS = ("GenerateVideo", "Generate3D")
OWN_RPC = {"video": "GenerateVideo", "audio": "SoundGeneration", "mesh": "Generate3D", "depth": "Depth"}
EXTENSIONS = st.sampled_from(["png", "jpg", "mp4", "gif", "wav", "glb", "tmp"])


@st.composite
def requests(draw: Any, entry: Any, folder: Path) -> tuple[str, Any]:
    """An RPC, mostly the one that the entry is for, and its message."""
    own = OWN_RPC.get(entry.kind, "GenerateImage")
    rpc = draw(st.sampled_from([own] * 5 + list(RPCS)))
    message, text, pictures, fields = RPCS[rpc]
    sources = st.sampled_from(PICTURES).map(lambda name: str(folder / name))
    values = draw(st.fixed_dictionaries(SAID.get(rpc, {}), optional={**fields, **dict.fromkeys(pictures, sources)}))
    values |= {text: draw(TEXTS)} if text else {}
    if rpc == "GenerateImage":
        values["ref_images"] = draw(st.lists(sources, max_size=2))
    if rpc in WITH_PARAMS:
        names = list(parameters_of(get_pipeline_registry()[entry.pipeline]))
        values["params"] = draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=2))
    return rpc, message(dst=str(folder / f"odd.{draw(EXTENSIONS)}"), **values)


class ZooRequests(RpcCase):
    def setUp(self) -> None:
        super().setUp()
        for name, picture in ODD_PICTURES.items():
            picture.save(self.folder / name, "PNG")

    def good(self, name: str) -> bytes:
        entry, dst = zoo.ENTRIES[name], self.path(f"{name}.gif")
        _REQUESTS.get(entry.kind, image_request)(self.server.backend, entry, dst, 7)
        return contents(dst)


def _test(name: str, count: int) -> Any:
    def test(self: ZooRequests) -> None:
        self.load(name)
        expected = None if zoo.ENTRIES[name].kind in UNCOMPARED else self.good(name)

        @settings(FEW, max_examples=count)
        @given(requests(zoo.ENTRIES[name], self.folder))
        def answered(call: tuple[str, Any]) -> None:
            try:
                getattr(self.stub, call[0])(call[1], timeout=SOON)
            except grpc.RpcError as error:
                self.assertIn(error.code(), EXPECTED, f"{call}: {error.details()}")

        answered()
        self.assertEqual(None if expected is None else self.good(name), expected)

    return test


for _name, _count in CLASSES.items():
    setattr(ZooRequests, f"test_{_name}_answers_anything", _test(_name, _count))


if __name__ == "__main__":
    unittest.main()
