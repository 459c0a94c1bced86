# SPDX-License-Identifier: MIT
"""``generate``: a model and a prompt to a file, through a real server.

What is not said stays unset, so that the model's own size, steps and guidance count; ``--as-localai`` fills a request
as LocalAI's core does. What the request has no field for goes into the model's options.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localai_diffusers.cli import like, model_yaml, server
from localai_diffusers.cli.terminal import WRONG, Fault, say, tell
from localai_diffusers.wire.values import parse_value

_CORES_SIZE, _CORES_STEPS = (512, 512), 15  # core/http/endpoints/openai/image.go
_EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp"),
    "prediction": (".png",),
    "video": (".mp4", ".webm", ".gif"),
    "audio": (".wav", ".flac", ".ogg", ".opus", ".mp3"),
    "3d": (".glb",),
}


def add(commands: Any) -> None:
    parser = commands.add_parser("generate", help="make a picture, a clip, a sound or a mesh, through a real server")
    parser.add_argument("words", nargs="*", metavar="MODEL_OR_YAML PROMPT", help="what to load, and what to make of it")
    parser.add_argument("--model", default="", help="the same by name: a YAML, a folder, a file or a Hub repo id")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--negative", "--negative-prompt", default="", help="what it must not show")
    parser.add_argument("--image", "--src", action="append", default=[], help="a picture to start from (again: more)")
    parser.add_argument("--mask", default="", help="white is made anew in the image")
    parser.add_argument("--control", action="append", default=[], help="a picture for the model's ControlNet")
    parser.add_argument("--lora", action="append", default=[], metavar="FILE[:SCALE]")
    parser.add_argument("--scheduler", default="", help="ddim, euler_a, k_dpmpp_2m …")
    parser.add_argument(
        "--pipeline-type", default="", help="a class name, a task, a family; else the model's own class"
    )
    parser.add_argument("--guidance", type=float, help="how much the prompt counts")
    parser.add_argument("--size", type=_size, help="WIDTHxHEIGHT in pixels")
    parser.add_argument("--steps", type=_positive)
    parser.add_argument("--seed", type=int, help="unset: random")
    parser.add_argument("--frames", type=_positive)
    parser.add_argument("--fps", type=_positive)
    parser.add_argument(
        "--like", default="", metavar="FILE", help="make it again: what it says of itself is the default"
    )
    parser.add_argument("--set", "--option", action="append", default=[], type=_pair, metavar="KEY=VALUE")
    parser.add_argument("--lenient", action="store_true", help="what nothing takes is a note, not an error")
    parser.add_argument("--as-localai", action="store_true", help="unset is 512x512 and 15 steps, as the core sends")
    parser.add_argument("--addr", default="", help="a backend that runs, host:port, instead of one's own")
    parser.add_argument("-o", "--output", default="output", help="a file, its extension by what is made; - is stdout")
    parser.add_argument("-v", "--verbose", action="store_true", help="the server's log on stderr")
    parser.set_defaults(run=run)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} must be WIDTHxHEIGHT, e.g. 512x512")
    return int(width), int(height)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    """``key=value`` (or ``key:value``, as in a YAML), at whichever sign comes first."""
    at = min((text.index(sign) for sign in "=:" if sign in text), default=0)
    if not text[:at].strip():
        raise argparse.ArgumentTypeError(f"{text!r} must be KEY=VALUE")
    return text[:at].strip(), text[at + 1 :].strip()


def run(options: argparse.Namespace) -> int:
    recipe = like.of_file(options.like) if options.like else None
    options = _with_words(like.with_recipe(options, recipe) if recipe else options)
    model = _model(options, recipe)
    if model.faults:
        raise Fault(f"{options.model}: {'; '.join(model.faults)}", WRONG)
    _check_files(options)
    fields = model_fields(model, options)
    with server.connected(options.addr, options.verbose) as stub, tempfile.TemporaryDirectory() as folder:
        facts = server.load(stub, fields)
        if recipe:
            options = _as_far_as_taken(options, facts)
        if not options.lenient:
            _refuse_ignored(options, facts)
        target = _target(options, facts.get("makes", ""))
        dst = target if target is not None else Path(folder, "made")
        rpc, request = request_of(options, model, facts.get("makes", ""), dst, Path(folder))
        steps = request.step or facts.get("steps") or 0
        result = server.generate(stub, rpc, request, steps)
        if target is None:
            with dst.open("rb") as made:
                shutil.copyfileobj(made, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            tell(result.message)
        else:
            say(f"{options.output if target == Path(options.output).resolve() else target}: {result.message}")
    return 0


def _with_words(options: argparse.Namespace) -> argparse.Namespace:
    """The model and the prompt by their names, however they were said. Raises Fault for one too many or too few."""
    words = list(options.words)
    model = options.model or (words.pop(0) if words else "")
    prompt = options.prompt or (words.pop(0) if words else "")
    if words:
        raise Fault(f"{words[0]!r} is one word too many: a prompt of several words stands in quotes", WRONG)
    if not model and not options.like:
        raise Fault("which model? generate MODEL_OR_YAML PROMPT", WRONG)
    return argparse.Namespace(**{**vars(options), "model": model, "prompt": prompt})


def _model(options: argparse.Namespace, recipe: like.Recipe | None) -> model_yaml.NamedModel:
    """What is loaded: what was said, else what made the file that it is to be like."""
    if recipe is not None and not options.model:
        return model_yaml.NamedModel(recipe.load or {})
    return model_yaml.read(options.model)


def _as_far_as_taken(options: argparse.Namespace, facts: Mapping[str, Any]) -> argparse.Namespace:
    """Without the figures of a file that are no arguments of what made it."""
    takes, known = facts.get("takes"), vars(options)
    unasked = {name: None for name in ("size", "steps", "frames") if takes is not None and name not in takes}
    return argparse.Namespace(**{**known, **unasked})


def _check_files(options: argparse.Namespace) -> None:
    """Raise Fault for an input that is not there, and an output that cannot be, before anything loads."""
    for name in (*options.image, *options.control, *filter(None, [options.mask])):
        path = Path(name).expanduser()
        if not path.is_file():
            raise Fault(f"there is no file {name}. {model_yaml.nearest(path)}".rstrip(), WRONG)
    if options.mask and not options.image:
        raise Fault("--mask needs the --image that it lies on", WRONG)
    folder = Path(options.output).expanduser().parent
    if options.output != "-" and not folder.is_dir():
        raise Fault(f"there is no folder {folder} for {options.output}. {model_yaml.nearest(folder)}".rstrip(), WRONG)
    if options.output == "-" and sys.stdout.isatty():
        raise Fault("-o - writes the file itself: send it into a pipe or a file", WRONG)


def model_fields(model: model_yaml.NamedModel, options: argparse.Namespace) -> dict[str, Any]:
    """ModelOptions with what the arguments add: what the request has no field for is an option of the model.

    With --lenient those come as engine_args, of which a strange one is only noted.
    """
    fields = dict(model.fields)
    said = dict(options.set)
    if options.guidance is not None:
        said["guidance_scale"] = f"{options.guidance:g}"
    if options.scheduler:
        fields["SchedulerType"] = options.scheduler
    if options.pipeline_type:
        fields["PipelineType"] = options.pipeline_type
    if options.lora:
        names, scales = zip(*map(_lora, options.lora), strict=True)
        own = list(fields.get("LoraAdapters", ()))
        missing = [1.0] * (len(own) - len(fields.get("LoraScales", ())))
        fields["LoraAdapters"] = [*own, *names]
        fields["LoraScales"] = [*fields.get("LoraScales", ()), *missing, *scales]
    if said and options.lenient:
        args = json.loads(fields.get("EngineArgs") or "{}") | {key: parse_value(value) for key, value in said.items()}
        fields["EngineArgs"] = json.dumps(args)
    elif said:
        fields["Options"] = [*fields.get("Options", ()), *(f"{key}:{value}" for key, value in said.items())]
    return fields


def _lora(text: str) -> tuple[str, float]:
    """``FILE[:SCALE]``; a file is given by its full path, since the model may lie elsewhere."""
    name, colon, scale = text.rpartition(":")
    try:
        name, factor = (name, float(scale)) if colon else (text, 1.0)
    except ValueError:
        name, factor = text, 1.0
    path = Path(name).expanduser()
    if path.exists():
        return str(path.resolve()), factor
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise Fault(f"--lora: there is no file {name}. {model_yaml.nearest(path)}".rstrip(), WRONG)
    return name, factor


def _refuse_ignored(options: argparse.Namespace, facts: Mapping[str, Any]) -> None:
    """Raise Fault for an argument that the loaded pipeline would let pass without a use for it."""
    said = {
        "negative_prompt": options.negative and "--negative",
        "guidance": options.guidance is not None and "--guidance",
        "size": options.size is not None and "--size",
        "steps": options.steps is not None and "--steps",
        "frames": options.frames is not None and "--frames",
        "prompt": options.prompt and "the prompt",
    }
    if facts.get("makes") != "video" and options.fps is not None and "makes" in facts:
        raise Fault(f"--fps: {facts['class']} makes no video (--lenient goes on without)", WRONG)
    takes = facts.get("takes", said)  # a server of another kind does not say
    for name, argument in said.items():
        if argument and name not in takes:
            raise Fault(f"{argument}: {facts['class']} has no use for it (--lenient goes on without)", WRONG)


def _target(options: argparse.Namespace, makes: str) -> Path | None:
    """The file to write, its extension by what is made; None for stdout. Raises Fault for another kind's."""
    if options.output == "-":
        return None
    path, known = Path(options.output).expanduser().resolve(), _EXTENSIONS.get(makes, ())
    if not path.suffix:
        return path.with_name(path.name + (known[0] if known else ".png"))
    others = {suffix for kind in _EXTENSIONS.values() for suffix in kind}
    if known and path.suffix.lower() not in known and path.suffix.lower() in others and not options.lenient:
        raise Fault(f"-o {options.output}: {makes} is what this model makes: name it {path.stem}{known[0]}", WRONG)
    return path


# --- requests -------------------------------------------------------------------------------------------------------


def request_of(
    options: argparse.Namespace, model: model_yaml.NamedModel, makes: str, dst: Path, folder: Path
) -> tuple[str, Any]:
    """The RPC and its message. A clip is asked for as LocalAI does in /video, a mesh as in /3d; what is left, and what
    /video has no field for, through GenerateImage, which writes whatever comes out.

    ``folder``: for what is sent as a file.
    """
    if options.as_localai:
        options = _as_the_core(options, model)
    width, height = options.size or (0, 0)
    seed = options.seed if options.seed is not None else model.seed
    shared = {
        "negative_prompt": options.negative,
        "width": width,
        "height": height,
        "step": options.steps or model.step or 0,
        "seed": -1 if seed is None else seed,
        "dst": str(dst),
    }
    plain = not options.mask and not options.control and len(options.image) < 2 and seed != 0
    if makes == "video" and plain and not options.as_localai:
        return "GenerateVideo", _video_request(options, shared)
    if makes == "3d":  # GenerateImage would write the turntable
        return "Generate3D", _mesh_request(options, shared)
    return "GenerateImage", _image_request(options, shared, model, folder)


def _as_the_core(options: argparse.Namespace, model: model_yaml.NamedModel) -> argparse.Namespace:
    """The arguments with what LocalAI's core fills in, and the negative words that it takes from behind a ``|``."""
    prompt, _, negative = (
        options.prompt.partition("|") if not options.negative else (options.prompt, "", options.negative)
    )
    filled = {
        "size": options.size or _CORES_SIZE,
        "steps": options.steps or model.step or _CORES_STEPS,
        "prompt": prompt,
        "negative": negative,
    }
    return argparse.Namespace(**{**vars(options), **filled})


def _video_request(options: argparse.Namespace, shared: Mapping[str, Any]) -> Any:
    start = str(Path(options.image[0]).expanduser().resolve()) if options.image else ""
    return server.messages().GenerateVideoRequest(
        prompt=options.prompt,
        start_image=start,
        num_frames=options.frames or 0,
        fps=options.fps or 0,
        **shared,
    )


def _mesh_request(options: argparse.Namespace, shared: Mapping[str, Any]) -> Any:
    return server.messages().Generate3DRequest(
        src=str(Path(options.image[0]).expanduser().resolve()) if options.image else "",
        params={"prompt": options.prompt} if options.prompt else {},
        **{name: shared[name] for name in ("dst", "step", "seed")},
    )


def _image_request(
    options: argparse.Namespace, shared: Mapping[str, Any], model: model_yaml.NamedModel, folder: Path
) -> Any:
    """The pictures in the order of the wire: the one to start from, then those of the ControlNets. A mask comes with
    its picture as the core's inpainting sends them: in one JSON, and once more as references."""
    if (options.frames or options.fps) and not options.lenient:
        raise Fault("--frames and --fps are of a clip that starts from at most one picture: --set num_frames=N", WRONG)
    paths = [str(Path(name).expanduser().resolve()) for name in (*options.image, *options.control)]
    if options.mask:
        mask = str(Path(options.mask).expanduser().resolve())
        pair = {"image": _base64(paths[0]), "mask_image": _base64(mask)}
        source = folder / "inpaint.json"
        source.write_text(json.dumps(pair), encoding="utf-8")
        paths = [str(source), paths[0], mask, *paths[1:]]
    return server.messages().GenerateImageRequest(
        positive_prompt=options.prompt,
        src=paths[0] if paths else "",
        ref_images=paths[1:],
        CLIPSkip=model.fields.get("CLIPSkip", 0),
        **shared,
    )


def _base64(path: str) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()
