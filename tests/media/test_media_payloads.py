# SPDX-License-Identifier: MIT
"""Promises of localai_diffusers.media.payloads: whatever a pipeline returns is told right and written
right.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
from PIL import Image

from localai_diffusers.errors import Cancelled, GenerationFailed, NotSupported, OutputError
from localai_diffusers.media import payloads
from localai_diffusers.media.payloads import Payload, payload_from_output, write_payload

RANDOM = np.random.default_rng(0)
PICTURES = [Image.fromarray(RANDOM.integers(0, 255, (32, 48, 3), dtype=np.uint8)) for _ in range(5)]
FRAMES = np.stack([np.asarray(picture) for picture in PICTURES])  # (F, H, W, C)
MESH = SimpleNamespace(verts=RANDOM.random((4, 3)), faces=np.array([[0, 1, 2], [1, 2, 3]]), vertex_channels={})


def told(output: Any, **rest: Any) -> Payload:
    return payload_from_output(output, **({"sampling_rate": 22_050} | rest))


def floats(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) / 255


class InFolder(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)

    def write(self, payload: Payload, name: str, check: Callable[[], None] = lambda: None, fps: float = 8) -> str:
        return write_payload(payload, str(self.folder / name), fps=fps, metadata={"parameters": "p"}, check=check)


class Pictures(unittest.TestCase):
    def assert_pictures(self, payload: Payload, count: int) -> None:
        self.assertEqual((payload.kind, len(payload.images)), ("image", count))
        for got, wanted in zip(payload.images, PICTURES, strict=False):
            np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))

    def test_pictures_are_pictures_under_any_name_and_wrapping(self) -> None:
        outputs = (
            OrderedDict(images=PICTURES),
            {"image": PICTURES},
            {"rgb": PICTURES},
            (PICTURES, None),
            (PICTURES, [False] * 5),
            PICTURES,
            {"images": floats(FRAMES)},
            (floats(FRAMES),),
            FRAMES,
            {"images": list(floats(FRAMES))},
            {"images": [[picture] for picture in PICTURES]},
            {"images": PICTURES, "nsfw_content_detected": [False] * 5, "unsafe_images": PICTURES[:1]},
        )
        for output in outputs:
            self.assert_pictures(told(output), 5)

    def test_a_lone_picture_or_array_is_one(self) -> None:
        for output in (PICTURES[0], {"image": PICTURES[0]}, floats(FRAMES[0]), {"images": FRAMES[:1]}):
            self.assert_pictures(told(output), 1)

    def test_tensors_have_their_channels_first(self) -> None:
        import torch

        tensor = torch.tensor(floats(FRAMES)).permute(0, 3, 1, 2)
        for output in ({"images": tensor}, {"images": list(tensor)}, {"images": tensor.double()}):
            self.assert_pictures(told(output), 5)

    def test_layers_of_a_picture_are_pictures_not_a_video(self) -> None:
        layers = [Image.new("RGBA", (8, 8)) for _ in range(4)]
        array = np.zeros((4, 8, 8, 4), np.float32)
        for output in ({"images": [layers]}, {"images": [array]}):
            payload = told(output)
            self.assertEqual((payload.kind, [image.mode for image in payload.images]), ("image", ["RGBA"] * 4))

    def test_gray_and_deep_samples_become_eight_bits(self) -> None:
        for array in (
            np.full((8, 8), 0.5),
            np.full((1, 8, 8, 1), 0.5),
            np.full((1, 8, 8, 1), 32_768, np.uint16),
        ):
            image = told({"images": array}).images[0]
            self.assertEqual((image.mode, image.size), ("L", (8, 8)))
            self.assertIn(image.getpixel((0, 0)), (127, 128))

    def test_raw_values_from_minus_one_to_one_are_shifted(self) -> None:
        payload = told({"images": floats(FRAMES) * 2 - 1})
        self.assertLessEqual(np.abs(np.asarray(payload.images[0], int) - FRAMES[0]).max(), 1)

    def test_a_single_nan_is_black_and_only_nan_is_a_failure(self) -> None:
        spoiled = floats(FRAMES)
        spoiled[0, 0, 0] = np.nan
        with self.assertLogs("localai_diffusers.media.arrays", "WARNING"):
            payload = told({"images": spoiled})
        self.assertEqual(payload.images[0].getpixel((0, 0)), (0, 0, 0))
        self.assertEqual(payload.images[0].getpixel((5, 5)), PICTURES[0].getpixel((5, 5)))
        for output in ({"images": spoiled * np.nan}, {"frames": spoiled[None] * np.nan}):
            with self.assertRaisesRegex(GenerationFailed, "torch_dtype"):
                told(output)


class Videos(unittest.TestCase):
    def assert_video(self, payload: Payload) -> None:
        self.assertEqual((payload.kind, len(payload.videos), len(payload.videos[0])), ("video", 1, 5))
        for got, wanted in zip(payload.videos[0], FRAMES, strict=True):
            np.testing.assert_array_equal(np.asarray(got), wanted)

    def test_frames_are_a_video_in_every_layout_of_numpy_and_pictures(self) -> None:
        values = floats(FRAMES)
        for video in (
            [PICTURES],
            PICTURES,
            values,
            values[None],
            [values],
            [list(values)],
            list(values),
            FRAMES,
        ):
            for name in ("frames", "video", "videos"):
                self.assert_video(told({name: video}))

    def test_frames_are_a_video_in_every_layout_of_tensors(self) -> None:
        import torch

        frames = torch.tensor(floats(FRAMES))
        first = frames.permute(0, 3, 1, 2)  # (F, C, H, W)
        layouts = (
            first,
            first[None],
            first.transpose(0, 1)[None],
            first[None].half().float(),
            [first],
            list(first),
        )
        for video in layouts[:3] + layouts[4:]:
            self.assert_video(told({"frames": video}))
        self.assert_video(told({"frames": torch.tensor(FRAMES)[None]}))  # uint8 (N, F, H, W, C): Latte
        self.assert_video(told((first[None],)))

    def test_a_batch_of_pictures_is_a_video_where_the_call_was_for_one(self) -> None:
        for output in ({"images": floats(FRAMES)}, {"images": PICTURES}):
            self.assertEqual(told(output).kind, "image")
            self.assert_video(told(output, hint="video"))

    def test_renders_under_the_name_images_are_a_video(self) -> None:
        self.assert_video(told({"images": [PICTURES]}))
        self.assert_video(told({"images": floats(FRAMES)[None]}))

    def test_one_frame_is_a_picture_where_a_picture_was_asked_for(self) -> None:
        for video in ([PICTURES[:1]], PICTURES[:1], floats(FRAMES)[None, :1]):
            self.assertEqual(told({"frames": video}).kind, "video")
            payload = told({"frames": video}, hint="image")
            self.assertEqual(payload.kind, "image")
            np.testing.assert_array_equal(np.asarray(payload.images[0]), FRAMES[0])

    def test_layers_are_pictures_where_a_picture_was_asked_for(self) -> None:
        payload = told({"images": [PICTURES]}, hint="image")
        self.assertEqual((payload.kind, len(payload.images)), ("image", len(PICTURES)))
        self.assertEqual(told({"frames": [PICTURES]}, hint="image").kind, "video")

    def test_a_video_keeps_its_sound(self) -> None:
        sound = RANDOM.random((1, 2, 9000)).astype(np.float32)
        for output in (
            {"frames": floats(FRAMES)[None], "audio": sound},
            {"video": [PICTURES], "sound": sound[0]},
            (floats(FRAMES)[None], sound),
        ):
            payload = told(output)
            self.assert_video(payload)
            assert payload.audio is not None
            np.testing.assert_array_equal(payload.audio.samples, sound[0])

    def test_a_second_video_beside_it_is_not_the_payload(self) -> None:
        output = {
            "frames": floats(FRAMES)[None],
            "keyframes": floats(FRAMES)[None, :2],
            "action": [np.zeros((3, 3))],
        }
        self.assert_video(told(output))


class OtherKinds(unittest.TestCase):
    def test_sounds_in_every_layout(self) -> None:
        import torch

        mono, stereo = RANDOM.random(5000).astype(np.float32), RANDOM.random((2, 5000)).astype(np.float32)
        cases = (
            ({"audios": mono[None]}, mono[None]),
            ({"audios": [mono]}, mono[None]),
            ({"audio": mono}, mono[None]),
            ({"audios": stereo[None]}, stereo),
            ({"audios": torch.tensor(stereo)[None]}, stereo),
            ({"sound": stereo}, stereo),
            ({"audio": stereo.T}, stereo),
            ((mono[None],), mono[None]),
            ({"audios": stereo}, stereo[:1]),
            (([PICTURES[0]], (22_050, [mono])), mono[None]),
            ({"audios": mono[None, None], "images": PICTURES}, mono[None]),
        )
        for output, samples in cases:
            payload = told(output)
            assert payload.audio is not None
            self.assertEqual((payload.kind, payload.audio.rate), ("audio", 22_050))
            np.testing.assert_array_equal(payload.audio.samples, samples)

    def test_a_short_or_integer_sound_is_one_by_its_name(self) -> None:
        self.assertEqual(told({"audio": np.zeros((1, 100), np.float32)}).kind, "audio")
        payload = told({"audios": np.full((1, 100), 2**15 - 1, np.int16)})
        self.assertEqual(payload.audio and float(payload.audio.samples[0, 0]), 1.0)

    def test_the_rate_in_the_output_wins_and_none_means_sixteen_thousand(self) -> None:
        sound = np.zeros((1, 3000), np.float32)
        self.assertEqual(told({"audio": sound, "sampling_rate": 48_000}).audio.rate, 48_000)
        self.assertEqual(told({"audio": sound}, sampling_rate=None).audio.rate, 16_000)

    def test_a_sound_of_nan_is_a_failure(self) -> None:
        with self.assertRaises(GenerationFailed):
            told({"audios": np.full((1, 3000), np.nan)})

    def test_a_mesh_is_a_mesh_wherever_it_lies(self) -> None:
        for output in ({"images": [MESH]}, [MESH], MESH):
            payload = told(output)
            self.assertEqual((payload.kind, payload.meshes), ("mesh", (MESH,)))

    def test_depth_predictions_keep_their_values(self) -> None:
        import torch

        depth = RANDOM.random((32, 48)).astype(np.float32)
        for value in (depth[None, ..., None], torch.tensor(depth)[None, None]):
            payload = told({"prediction": value, "uncertainty": value})
            self.assertEqual((payload.kind, len(payload.arrays)), ("depth", 1))
            np.testing.assert_array_equal(payload.arrays[0], depth)

    def test_predictions_of_three_channels_are_pictures(self) -> None:
        self.assertEqual(told({"prediction": floats(FRAMES)[:1] * 2 - 1}).kind, "image")

    def test_a_picture_with_depth_is_a_picture_and_has_both(self) -> None:
        deep = Image.fromarray(np.full((32, 48), 65_535, np.uint16))
        payload = told({"rgb": PICTURES[:1], "depth": [deep]})
        self.assertEqual((payload.kind, len(payload.images), payload.arrays[0].max()), ("image", 1, 1.0))

    def test_embeddings_and_texts_are_told(self) -> None:
        import torch

        for output in (
            {"image_embeds": torch.rand(1, 768)},
            {"prompt_embeds": torch.rand(1, 5, 64)},
            {"image_embeddings": np.zeros((1, 16, 24, 24))},
            {"coords_nm": torch.rand(1, 5, 3)},
        ):
            self.assertEqual(told(output).kind, "embeddings")
        payload = told({"sequences": torch.zeros(1, 5, dtype=torch.long), "texts": ["a", "b"]})
        self.assertEqual((payload.kind, payload.text), ("text", "a\nb"))
        self.assertEqual(told({"images": PICTURES, "text": ["a"]}).kind, "image")

    def test_a_modular_state_gives_its_results_not_its_inputs(self) -> None:
        state = SimpleNamespace(values={"prompt": "a", "image": PICTURES[4], "latents": FRAMES, "images": PICTURES})
        payload = told(state)
        self.assertEqual((payload.kind, len(payload.images), payload.text), ("image", 5, ""))

    def test_nothing_known_is_a_failure_that_says_what_came(self) -> None:
        for output in (None, {}, {"images": None}, {"images": []}, (None, False)):
            with self.assertRaisesRegex(GenerationFailed, "nothing that can be written"):
                told(output)


class Rates(unittest.TestCase):
    def rate(self, **configs: Any) -> int | None:
        components = {name: SimpleNamespace(config=config) for name, config in configs.items()}
        return payloads.sampling_rate_of(SimpleNamespace(components=components))

    def test_the_last_stage_tells_the_rate(self) -> None:
        ltx2 = {"audio_vae": {"sample_rate": 16_000}, "vocoder": {"output_sampling_rate": 24_000}}
        self.assertEqual(self.rate(**ltx2), 24_000)
        both = {"vocoder": {"sampling_rate": 16_000, "output_sampling_rate": 48_000}}
        self.assertEqual(self.rate(**both), 48_000)

    def test_any_component_and_kind_of_config_may_tell_it(self) -> None:
        self.assertEqual(self.rate(vae=SimpleNamespace(sampling_rate=44_100)), 44_100)
        self.assertEqual(self.rate(sound_tokenizer={"sampling_rate": 32_000}, vae={}), 32_000)
        self.assertEqual(self.rate(unet={"sample_rate": 8_000}, scheduler=None), 8_000)
        self.assertIsNone(self.rate(unet={"sample_size": 8_000}, vae={"sampling_rate": None}))

    def test_the_pipeline_itself_is_asked_last(self) -> None:
        self.assertEqual(payloads.sampling_rate_of(SimpleNamespace(components={}, sample_rate=24_000)), 24_000)
        self.assertIsNone(payloads.sampling_rate_of(SimpleNamespace()))

    def test_else_the_frame_rate_is_that_of_the_classs_example(self) -> None:
        import diffusers

        for cls, rate in (
            (diffusers.WanPipeline, 16.0),
            (diffusers.CogVideoXPipeline, 8.0),
            (diffusers.AnimateDiffPipeline, None),
        ):
            self.assertEqual(payloads.frame_rate_of(cls.__new__(cls)), rate, cls)

    def test_the_frame_rate_is_the_calls_own_default(self) -> None:
        class Pipeline:
            components: dict[str, Any] = {"transformer": SimpleNamespace(config={"base_fps": 24})}

            def __call__(self, prompt: str = "", fps: int = 7) -> None: ...

        class Silent(Pipeline):
            def __call__(self, prompt: str = "", fps: int | None = None) -> None: ...

        self.assertEqual(payloads.frame_rate_of(Pipeline()), 7.0)
        self.assertEqual(payloads.frame_rate_of(Silent()), 24.0)
        self.assertIsNone(payloads.frame_rate_of(SimpleNamespace()))


class Writing(InFolder):
    def test_a_picture_is_png_whatever_the_name_save_jpeg_and_webp(self) -> None:
        payload = told({"images": PICTURES})
        cases = {"a.png": "PNG", "a.tmp": "PNG", "a.mp4": "PNG", "a.jpg": "JPEG", "a.webp": "WEBP"}
        for name, format in cases.items():
            self.assertEqual(self.write(payload, name), f"{format} 48x32")
            with Image.open(self.folder / name) as image:
                self.assertEqual((image.format, image.size), (format, (48, 32)))
        with Image.open(self.folder / "a.tmp") as image:
            self.assertEqual(image.text["parameters"], "p")
            np.testing.assert_array_equal(np.asarray(image), FRAMES[0])

    def test_a_video_is_mp4_whatever_the_name_save_webm_and_gif(self) -> None:
        payload = told({"frames": floats(FRAMES)[None]})
        for name, container in {"a.png": "MP4", "a.tmp": "MP4", "a.webm": "WEBM", "a.gif": "GIF"}.items():
            self.assertEqual(self.write(payload, name), f"{container} 5 frames at 8 fps 48x32")
            with av.open(str(self.folder / name)) as source:
                self.assertEqual(len(list(source.decode(video=0))), 5)

    def test_a_videos_sound_is_in_its_file(self) -> None:
        payload = told({"frames": [PICTURES], "audio": np.zeros((1, 1, 9000), np.float32)})
        self.assertEqual(self.write(payload, "a.tmp"), "MP4 5 frames at 8 fps 48x32, sound at 22050 Hz")
        with av.open(str(self.folder / "a.tmp")) as source:
            self.assertEqual(len(source.streams.audio), 1)

    def test_sounds_meshes_and_depth_have_their_formats(self) -> None:
        sound = told({"audios": np.zeros((1, 22_050), np.float32)})
        self.assertEqual(self.write(sound, "a.tmp"), "WAV 1.00 s at 22050 Hz, 1 channel(s)")
        self.assertEqual((self.folder / "a.tmp").read_bytes()[:4], b"RIFF")
        self.assertEqual(self.write(sound, "a.flac"), "FLAC 1.00 s at 22050 Hz, 1 channel(s)")
        self.assertEqual(self.write(told([MESH]), "a.glb"), "GLB 4 vertices, 2 triangles")
        self.assertEqual((self.folder / "a.glb").read_bytes()[:4], b"glTF")

    def test_depth_is_sixteen_bit_gray_in_a_png(self) -> None:
        ramp = np.linspace(0, 1, 48, dtype=np.float32)[None].repeat(32, axis=0)
        for values in (ramp, ramp * 30 + 5):
            self.assertEqual(self.write(told({"prediction": values[None, ..., None]}), "d.png"), "PNG depth 48x32")
            got = np.asarray(Image.open(self.folder / "d.png"), float) / 65_535
            self.assertLess(np.abs(got - ramp).max(), 1e-4)
        self.assertEqual(self.write(told({"prediction": ramp[None, ..., None]}), "d.jpg"), "JPEG depth 48x32")

    def test_what_has_no_file_says_so(self) -> None:
        for payload in (Payload("embeddings"), Payload("text", text="a")):
            with self.assertRaisesRegex(NotSupported, payload.kind):
                self.write(payload, "a.png")
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_cancelled_write_leaves_the_older_file_and_nothing_else(self) -> None:
        def stop() -> None:
            raise Cancelled("the client left")

        for output in ({"images": PICTURES}, {"frames": [PICTURES]}, {"audios": np.zeros((1, 9000))}, [MESH]):
            (self.folder / "dst").write_bytes(b"old")
            with self.assertRaises(Cancelled):
                self.write(told(output), "dst", stop)
            self.assertEqual(os.listdir(self.folder), ["dst"])
            self.assertEqual((self.folder / "dst").read_bytes(), b"old")

    def test_a_bad_destination_is_an_output_error(self) -> None:
        with self.assertRaises(OutputError):
            self.write(told({"images": PICTURES}), "none/a.png")


class Imports(unittest.TestCase):
    def test_pictures_need_neither_pyav_nor_torch(self) -> None:
        program = (
            "import sys, localai_diffusers.media.payloads, localai_diffusers.media.images; "
            "print([name for name in ('av', 'torch', 'grpc') if name in sys.modules])"
        )
        root = Path(payloads.__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", program], cwd=root, text=True, capture_output=True, check=True)
        self.assertEqual(done.stdout.strip(), "[]")


class FullDisk(InFolder):
    """A limit on the size of files stands for a full disk: write(2) fails with EFBIG where it would with
    ENOSPC.
    """

    program = """
import os, resource, sys
from types import SimpleNamespace
import numpy as np
from localai_diffusers.errors import OutputDiskFull
from localai_diffusers.media.payloads import payload_from_output, write_payload
folder, random = sys.argv[1], np.random.default_rng(0)
noise, sound = random.random((1, 6, 128, 128, 3)), {'audios': random.random((1, 90000))}
faces = random.integers(0, 3000, (3000, 3))
mesh = SimpleNamespace(verts=random.random((3000, 3)), faces=faces, vertex_channels={})
outputs = {'a.png': {'images': noise[0]}, 'a.jpg': {'images': noise[0]}, 'a.webp': {'images': noise[0]},
           'a.mp4': {'frames': noise}, 'a.webm': {'frames': noise}, 'a.gif': {'frames': noise},
           'a.wav': sound, 'a.flac': sound, 'a.mp3': sound, 'a.ogg': sound, 'a.glb': [mesh]}
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
for name, output in outputs.items():
    dst = os.path.join(folder, name)
    with open(dst, 'wb') as file:
        file.write(b'old')
    payload = payload_from_output(output, sampling_rate=16000)
    try:
        print(write_payload(payload, dst, fps=8, metadata=None, check=lambda: None))
    except OutputDiskFull:
        pass
    if open(dst, 'rb').read() != b'old' or len(os.listdir(folder)) != 1:
        print(name, os.listdir(folder))
    os.unlink(dst)
"""

    def test_every_format_tells_it_and_leaves_the_older_file_alone(self) -> None:
        root = Path(payloads.__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", self.program, str(self.folder)],
            cwd=root,
            text=True,
            capture_output=True,
            check=False,
        )
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)


if __name__ == "__main__":
    unittest.main()
