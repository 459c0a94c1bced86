# SPDX-License-Identifier: MIT
"""32: an animated GIF, WebP or APNG as a video's source (start_image) counts all of its frames, as an MP4 does."""
import os
import sys

sys.path.insert(0, os.getcwd())
import av
import grpc
import numpy
from PIL import Image

import backend_pb2
from tests.support import any_backend
from tests.every_pipeline.test_zoo_server import options_of
from tests.zoo import ENTRIES, checkpoint

pictures = [Image.fromarray(numpy.roll(numpy.kron(numpy.eye(4, dtype="uint8") * 200 + 30, numpy.ones((16, 16), "uint8")), 8 * i, 1)).convert("RGB") for i in range(6)]
said, failed = [], False
with any_backend() as backend:
    files = {}
    for kind in ("gif", "webp", "png"):
        files[kind] = backend.folder / f"clip.{kind}"
        pictures[0].save(files[kind], save_all=True, append_images=pictures[1:], duration=125, loop=0, **({"lossless": True} if kind == "webp" else {}))
    for kind in ("mp4", "mkv"):
        files[kind] = backend.folder / f"clip.{kind}"
        with av.open(str(files[kind]), "w") as output:
            stream = output.add_stream("libx264", rate=8)
            stream.width = stream.height = 64
            for picture in pictures:
                output.mux(stream.encode(av.VideoFrame.from_image(picture)))
            output.mux(stream.encode(None))
    for name in ("AnimateDiffVideoToVideoPipeline", "WanVideoToVideoPipeline", "CogVideoXVideoToVideoPipeline"):
        if name not in ENTRIES:
            continue
        backend.load(checkpoint(name), Options=options_of(ENTRIES[name]))
        made = {}
        for kind in ("mp4", "mkv", "gif", "webp", "png"):
            for how in ("start_image", "params"):
                dst = backend.folder / f"out-{kind}-{how}.mp4"
                fields = {"start_image": str(files[kind])} if how == "start_image" else {"params": {"video": str(files[kind])}}
                try:
                    answer = backend.stub.GenerateVideo(backend_pb2.GenerateVideoRequest(prompt="a cat", dst=str(dst), seed=7, step=2, width=64, height=64, **fields), timeout=200)
                    with av.open(str(dst)) as source:
                        made[f"{kind}/{how}"] = sum(1 for _ in source.decode(video=0))
                except grpc.RpcError as error:
                    made[f"{kind}/{how}"] = error.details()[:400]
        failed |= any(value != made["mp4/start_image"] for key, value in made.items() if "start_image" in key)
        said.append(f"{name}: {made}")
print("32", "FAIL" if failed else "PASS", "; ".join(said))
