# SPDX-License-Identifier: MIT
"""The same backend for a person at a terminal: ``python -m localai_diffusers.cli demo | generate | catalogue``.

``demo`` and ``generate`` start the real server on a free port and talk gRPC to it, so that they show what LocalAI gets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[2]
DEMO_MODEL = HOME / "examples" / "shapes-model"
DEMO_PROMPTS = (
    "a red circle on a blue background",
    "a yellow square on a black background",
    "a green triangle on a white background",
    "a blue square on a yellow background",
    "a green circle on a black background",
    "a red triangle on a yellow background",
)
_DEMO_STEPS = 20
_START_SECONDS = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m localai_diffusers.cli", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    demo = commands.add_parser("demo", help="load the shipped model and draw a sheet of pictures")
    demo.add_argument("--output", default="demo.png", help="the sheet (default: %(default)s)")
    demo.set_defaults(run=_demo)
    generate = commands.add_parser("generate", help="load a model and make one picture, as LocalAI would")
    generate.add_argument("--model", required=True, help="a folder, a checkpoint file or a Hub repo id")
    generate.add_argument("--prompt", default="")
    generate.add_argument("--negative-prompt", default="")
    generate.add_argument("--src", default="", help="a picture to start from")
    generate.add_argument("--size", default="512x512", help="WIDTHxHEIGHT in pixels (default: %(default)s)")
    generate.add_argument("--steps", type=int, default=0, help="0: the pipeline's default")
    generate.add_argument("--seed", type=int, default=-1, help="-1: random")
    generate.add_argument(
        "--pipeline-type", default="", help="a class name, a task, a family; empty: the model's own class"
    )
    generate.add_argument(
        "--option", action="append", default=[], metavar="KEY:VALUE", help="as in options: of a model's YAML"
    )
    generate.add_argument("--output", default="output.png")
    generate.set_defaults(run=_generate)
    catalogue = commands.add_parser("catalogue", help="every pipeline class of diffusers: tasks, inputs, output, RPC")
    catalogue.add_argument("--json", action="store_true")
    catalogue.set_defaults(run=_catalogue)
    options = parser.parse_args(arguments)
    return options.run(options)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# --- a server of one's own -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_server() -> Iterator[Any]:
    """A stub for a server process that lives as long as the block. Raises RuntimeError if it does not come up."""
    import grpc

    sys.path.insert(0, str(HOME))
    import backend_pb2
    import backend_pb2_grpc

    address = f"127.0.0.1:{_free_port()}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, str(HOME / "backend.py"), "--addr", address], stderr=log)
        try:
            _wait_for_port(address, process, log)
            with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 50 << 20)]) as channel:
                stub = backend_pb2_grpc.BackendStub(channel)
                stub.Health(backend_pb2.HealthMessage(), timeout=_START_SECONDS, wait_for_ready=True)
                yield stub
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for_port(address: str, process: subprocess.Popen[bytes], log: Any) -> None:
    """Until something listens there: a gRPC channel that is refused once waits a second before it tries again."""
    host, _, port = address.partition(":")
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.01)
    log.seek(0)
    raise RuntimeError(f"the server did not come up:\n{log.read().decode(errors='replace')}")


def _load(stub: Any, model: str, pipeline_type: str = "", options: tuple[str, ...] = (), threads: int = 0) -> None:
    import backend_pb2

    began = time.monotonic()
    path = Path(model)
    result = stub.LoadModel(
        backend_pb2.ModelOptions(
            Model=model,
            ModelFile=str(path.resolve()) if path.exists() else "",
            PipelineType=pipeline_type,
            Options=options,
            Threads=threads,
        )
    )
    if not result.success:
        raise SystemExit(result.message)
    _say(f"{result.message} ({time.monotonic() - began:.1f} s)")


# --- commands --------------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    """Pictures of the shipped model, on one sheet with their prompts."""
    import backend_pb2

    began = time.monotonic()
    with running_server() as stub, tempfile.TemporaryDirectory() as folder:
        _say(f"server up after {time.monotonic() - began:.1f} s")
        # Its card's guidance; and one thread, since so small a model only waits for a second.
        _load(stub, str(DEMO_MODEL), options=("guidance_scale:5",), threads=1)
        drawn = []
        start = time.monotonic()
        for number, prompt in enumerate(DEMO_PROMPTS):
            dst = Path(folder, f"{number}.png")
            stub.GenerateImage(
                backend_pb2.GenerateImageRequest(
                    positive_prompt=prompt, width=64, height=64, step=_DEMO_STEPS, seed=number + 1, dst=str(dst)
                )
            )
            drawn.append((prompt, dst))
        seconds = time.monotonic() - start
        _sheet(drawn).save(options.output)
    _say(f"{len(drawn)} pictures in {seconds:.1f} s ({seconds / len(drawn):.2f} s each, {_DEMO_STEPS} steps)")
    _say(f"{options.output}: the sheet; {time.monotonic() - began:.1f} s in all")
    return 0


def _sheet(drawn: list[tuple[str, Path]], scale: int = 3, columns: int = 3) -> Any:
    """The pictures in a grid, enlarged, each over its prompt."""
    from PIL import Image, ImageDraw

    side, margin, caption = 64 * scale, 12, 28
    rows = -(-len(drawn) // columns)
    width, height = columns * (side + margin) + margin, rows * (side + caption + margin) + margin
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (prompt, path) in enumerate(drawn):
        left = margin + number % columns * (side + margin)
        top = margin + number // columns * (side + caption + margin)
        with Image.open(path) as picture:
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
        pen.rectangle((left - 1, top - 1, left + side, top + side), outline="gray")
        pen.text((left, top + side + 4), prompt.replace(" on ", "\non "), fill="black", spacing=1)
    return sheet


def _generate(options: argparse.Namespace) -> int:
    import grpc

    import backend_pb2

    width, _, height = options.size.partition("x")
    dst = Path(options.output).resolve()
    src = str(Path(options.src).resolve()) if options.src else ""
    with running_server() as stub:
        _load(stub, options.model, options.pipeline_type, tuple(options.option))
        try:
            result = stub.GenerateImage(
                backend_pb2.GenerateImageRequest(
                    positive_prompt=options.prompt,
                    negative_prompt=options.negative_prompt,
                    width=int(width),
                    height=int(height),
                    step=options.steps,
                    seed=options.seed,
                    src=src,
                    dst=str(dst),
                )
            )
        except grpc.RpcError as error:
            raise SystemExit(f"{error.code().name}: {error.details()}") from None
    _say(f"{dst}: {result.message}")
    return 0


def _catalogue(options: argparse.Namespace) -> int:
    from localai_diffusers import logs
    from localai_diffusers.cli import catalogue

    logs.configure("ERROR")
    rows = catalogue.rows()
    if options.json:
        _say(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        _say(catalogue.table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
