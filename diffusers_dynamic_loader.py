"""Find, choose and load any diffusers pipeline, by class name, by task, or from the model itself.

Usable alone; knows nothing of gRPC::

    import diffusers_dynamic_loader as loader

    pipe = loader.load_diffusers_pipeline(model_id="./my-model", device="auto")
    pipe = loader.load_diffusers_pipeline(task="image-to-image", model_id="owner/name")
    loader.get_available_pipelines()     # no import of torch or diffusers

How it works, for a maintainer
------------------------------
1. **Catalog** (`_catalog`): the names come from the source text. `pkgutil.iter_modules` lists the modules
   of `diffusers.pipelines` without importing them, a regular expression reads `class Name(bases):`, and the
   bases are followed by name up to `DiffusionPipeline`. That takes 0.2 s where everything imported
   takes 6 s, and it finds the classes that `diffusers` shows only as dummies. A pipeline that a new
   diffusers brings appears by itself.
2. **Registry** (`PipelineRegistry`): a read-only mapping name -> class; looking one up imports its defining
   module.
3. **Traits** (`_traits`): what a class takes and gives, read from the source of its `__call__` and
   `__init__`. From them, the class name and diffusers' own AutoPipeline mappings follow the tasks it does
   (`pipeline_tasks`).
4. **Order** (`_rank`): who wins a task. AutoPipelineFor… first, deprecated classes last, then diffusers'
   own mapping, then how many other pipelines say "Copied from" this one: what others are modeled on is what
   an expert names.
5. **Siblings** (`find_sibling`): the class for another task on the same weights: the class itself if it
   does the task, then diffusers' mapping, then the same name family whose components the model has.
6. **Model facts** (`inspect_model`): the class that a folder, a Hub repo or a checkpoint names.

No pipeline is named in this file but DiffusionPipeline, from which all derive. The tables (`TASKS`,
`_INPUTS`, `_FIELD_KINDS`) hold words of tasks and parameters, not of pipelines.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
import json
import logging
import os
import pkgutil
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

__all__ = [
    "GatedModelError",
    "HubError",
    "MissingModelError",
    "ModelFacts",
    "NoSiblingError",
    "PipelineImportError",
    "PipelineRegistry",
    "UnknownPipelineError",
    "UnknownTaskError",
    "UnreachableHubError",
    "canonical_task",
    "discover_diffusers_classes",
    "find_sibling",
    "find_sibling_name",
    "get_available_classes",
    "get_available_pipelines",
    "get_available_tasks",
    "get_pipeline_info",
    "get_pipeline_registry",
    "get_task_aliases",
    "inspect_model",
    "load_diffusers_pipeline",
    "pick_device",
    "pipeline_tasks",
    "resolve_checkpoint_class",
    "resolve_pipeline_class",
    "resolve_pipeline_type",
]

log = logging.getLogger(__name__)


# -------------------------------------------------------------------------------------------------- errors


class UnknownPipelineError(ValueError):
    """No pipeline class has this name."""


class UnknownTaskError(ValueError):
    """No task, family or Hub tag has this name."""


class NoSiblingError(ValueError):
    """No class of the model's own family does the wanted task."""


class PipelineImportError(ImportError):
    """A listed class can't be imported; `name` is the missing package when one is missing."""


class HubError(OSError):
    """The Hub gave no answer about a model. See the three kinds below."""


class GatedModelError(HubError):
    """The model exists, but not for this (or no) token."""


class MissingModelError(HubError):
    """Neither a local path nor a repo that the Hub shows to this token."""


class UnreachableHubError(HubError):
    """The Hub can't be asked: network, server error, offline mode, or huggingface_hub is not installed."""


# --------------------------------------------------------------------------------------------- task tables


@dataclass(frozen=True)
class Task:
    """Other names of a task (Hub pipeline tags among them), and words of class names that stand for it."""

    aliases: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


TASKS: Mapping[str, Task] = {
    "text-to-image": Task(
        ("txt2img", "text2image", "text2img", "t2i"), ("TextToImage", "Text2Image", "Text2Img", "T2I")
    ),
    "image-to-image": Task(
        ("img2img", "image2image", "i2i", "image-text-to-image", "image-variation"),
        ("ImageToImage", "Image2Image", "Img2Img", "I2I"),
    ),
    "inpainting": Task(("inpaint", "image-inpainting"), ("Inpainting", "Inpaint")),
    "text-to-video": Task(
        ("txt2vid", "text2video", "text2vid", "txt2video", "t2v"), ("TextToVideo", "Text2Video", "TextToWorld", "T2V")
    ),
    "image-to-video": Task(
        ("img2vid", "image2video", "img2video", "i2v", "image-text-to-video"),
        ("ImageToVideo", "Image2Video", "Img2Vid", "I2V"),
    ),
    "video-to-video": Task(("vid2vid", "video2video", "v2v"), ("VideoToVideo", "Video2Video", "VideoToWorld", "V2V")),
    "text-to-audio": Task(("txt2audio", "text2audio", "text-to-music", "text-to-speech"), ("TextToAudio",)),
    "audio-to-audio": Task(("audio2audio",), ("AudioToAudio",)),
    "unconditional-audio-generation": Task(("unconditional-audio",)),
    "text-to-3d": Task(("txt-to-3d", "text23d"), ("TextTo3D",)),
    "image-to-3d": Task(("img-to-3d", "image23d"), ("ImageTo3D",)),
    "controlnet": Task(("control-net",), ("ControlNet", "Controlnet")),
    "depth-to-image": Task(("depth2img", "depth2image"), ("Depth2Img", "DepthToImage")),
    "depth-estimation": Task(("monocular-depth-estimation",)),
    "normals-estimation": Task(("normal-estimation", "surface-normal-estimation")),
    "intrinsics-estimation": Task(("intrinsic-image-decomposition",)),
    "upscaling": Task(
        ("super-resolution", "upscale", "upscaler", "image-upscaling"),
        ("LatentUpscale", "Upscale", "LatentUpsample", "SuperResolution", "SR"),
    ),
    "unconditional-image-generation": Task(("unconditional", "unconditional-image")),
    "text-generation": Task(),
    "image-text-to-text": Task(("image-to-text",)),
    "any-to-any": Task(("any2any",)),
}

# Tasks whose weights are never those of another class: no sibling can be made from a model at hand.
_OWN_WEIGHTS = frozenset({"upscaling", "depth-to-image", "depth-estimation", "text-to-3d", "image-to-3d"})
# Components that the caller brings along with a task, so a model need not hold them.
_BROUGHT = {"controlnet": frozenset({"controlnet", "adapter"})}
# Words of a class name that make a variant of its own, not a task of the same family.
_FAMILY_KEEPS = frozenset({"controlnet", "depth-to-image"})

# Parameter names by what they carry; measured over the 306 classes of diffusers 0.42.1.
_INPUTS: Mapping[str, frozenset[str]] = {
    "prompt": frozenset({"prompt", "prompts", "content_prompt"}),
    "image": frozenset({"image", "images", "input_images", "input_image", "conditions"}),
    "mask": frozenset({"mask_image", "mask", "control_mask", "mask_images"}),
    "video": frozenset({"video", "conditions", "pose_video"}),
    "audio": frozenset({"audio", "initial_audio_waveforms"}),
}
# The keyword with which `__call__` builds its output -> what comes out.
_FIELD_KINDS: Mapping[str, str] = {
    "images": "image",
    "image": "image",
    "rgb": "image",
    "frames": "video",
    "video": "video",
    "audios": "audio",
    "audio": "audio",
    "prediction": "prediction",
    "sequences": "text",
    "image_embeds": "embeddings",
    "image_embeddings": "embeddings",
    "prompt_embeds": "embeddings",
}
# Import name -> name on the package registry, where they differ.
_PIP_NAMES: Mapping[str, str] = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "note_seq": "note-seq",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "bs4": "beautifulsoup4",
    "yaml": "pyyaml",
    "google": "protobuf",
}
_SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt", ".gguf", ".pt", ".pth", ".bin")
_ROOT_CLASS = "DiffusionPipeline"
_AUTO_PREFIX = "AutoPipelineFor"


# ----------------------------------------------------------------------------- reading source, not modules


@dataclass(frozen=True)
class ClassRecord:
    """A class as its source file shows it."""

    name: str
    module: str
    path: str
    bases: tuple[str, ...]

    @property
    def package(self) -> str:
        """The package that holds the defining module."""
        return self.module.rpartition(".")[0]

    @property
    def deprecated(self) -> bool:
        """Whether diffusers keeps the class for old models only."""
        return ".deprecated." in self.module or "DeprecatedPipelineMixin" in self.bases


# A literal start is found three times as fast as `^` with MULTILINE, and this runs over 15 MB of source.
_CLASS = re.compile(r"\nclass[ \t]+(\w+)[ \t]*(?:\(([^)]*)\))?[ \t]*:")
_build_lock = threading.RLock()  # taken inside _import_lock or alone, never the other way round
_import_lock = threading.RLock()
Built = TypeVar("Built")


def _once(build: Callable[[], Built]) -> Callable[[], Built]:
    """Call `build` once a process, whichever threads ask, and keep what it returns."""
    kept = functools.cache(build)

    @functools.wraps(build)
    def locked() -> Built:
        with _build_lock:
            return kept()

    return locked


def _diffusers_folder() -> str:
    """Folder of the installed diffusers, found without importing it.

    Raises PipelineImportError when there is none.
    """
    spec = importlib.util.find_spec("diffusers")
    if spec is None or not spec.submodule_search_locations:
        raise PipelineImportError(
            "diffusers is not installed; install it with: pip install diffusers", name="diffusers"
        )
    return next(iter(spec.submodule_search_locations))


def _module_files(folder: str, module: str) -> Iterator[tuple[str, str]]:
    """(module, path) of every module below a package folder; `walk_packages` would import each package."""
    init = os.path.join(folder, "__init__.py")
    if os.path.isfile(init):
        yield module, init
    for found in pkgutil.iter_modules([folder]):
        name, path = f"{module}.{found.name}", os.path.join(folder, found.name)
        if found.ispkg:
            yield from _module_files(path, name)
        elif os.path.isfile(path + ".py") and not found.name.startswith("dummy_"):
            yield name, path + ".py"


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _base_names(text: str, bases: str) -> tuple[str, ...]:
    """Plain names of the bases in `class X(bases)`; an `import A as B` is followed back to A."""
    names = [base.strip().rpartition(".")[2] for base in bases.split(",") if base.strip() and "=" not in base]
    for position, name in enumerate(names):
        if f" as {name}" in text and (alias := re.search(rf"\b(\w+) as {re.escape(name)}\b", text)):
            names[position] = alias[1]
    return tuple(names)


def _scan(folder: str, module: str) -> list[ClassRecord]:
    """Every top-level class below a package folder, in file order."""
    records = []
    for name, path in _module_files(folder, module):
        text = "\n" + _read(path)
        for match in _CLASS.finditer(text):
            records.append(ClassRecord(match[1], name, path, _base_names(text, match[2] or "")))
    return records


def _subclasses(records: Iterable[ClassRecord], base: str) -> list[ClassRecord]:
    """Records that derive from `base`, by name, through any number of steps; without `base` itself."""
    children: dict[str, list[ClassRecord]] = {}
    for record in records:
        for parent in record.bases:
            children.setdefault(parent, []).append(record)
    found: dict[tuple[str, str], ClassRecord] = {}
    todo = [base]
    while todo:
        for record in children.get(todo.pop(), ()):
            if (record.module, record.name) not in found:
                found[record.module, record.name] = record
                todo.append(record.name)
    return list(found.values())


@_once
def _catalog() -> Mapping[str, ClassRecord]:
    """Every pipeline by class name: the subclasses of DiffusionPipeline, itself, and the AutoPipelines."""
    found = _scan(os.path.join(_diffusers_folder(), "pipelines"), "diffusers.pipelines")
    wanted = _subclasses(found, _ROOT_CLASS)
    wanted += [row for row in found if row.name.startswith(_AUTO_PREFIX) or row.name == _ROOT_CLASS]
    # Should a name come twice, the current class wins over the deprecated one.
    return {record.name: record for record in sorted(wanted, key=lambda record: not record.deprecated)}


@_once
def _auto_mappings() -> Mapping[str, Mapping[str, str]]:
    """diffusers' `…AUTO_…_MAPPING` tables (table -> family key -> class name), read without running them.

    Both forms are read: `NAME = OrderedDict([("key", Class), …])` (or a dict) and `NAME["key"] = Class`,
    also inside an `if`, whose packages may be missing here: a class is listed all the same.
    """
    path = next((record.path for name, record in _catalog().items() if name.startswith(_AUTO_PREFIX)), None)
    tree = ast.parse(_read(path) if path else "")
    renamed = {
        alias.asname: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    tables: dict[str, dict[str, str]] = {}
    for node in (row for top in tree.body for row in (top.body if isinstance(top, ast.If) else [top])):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        named = target.value if isinstance(target, ast.Subscript) else target
        if not isinstance(named, ast.Name) or "AUTO_" not in named.id or not named.id.endswith("_MAPPING"):
            continue
        table = tables.setdefault(named.id, {})
        single = isinstance(target, ast.Subscript)
        pairs = [(target.slice, node.value)] if single else _literal_pairs(node.value)
        table.update(
            (key.value, renamed.get(value.id, value.id))
            for key, value in pairs
            if isinstance(key, ast.Constant) and isinstance(value, ast.Name)
        )
    return tables


def _literal_pairs(node: ast.expr | None) -> list[tuple[ast.expr | None, ast.expr]]:
    """Key and value nodes of a dict literal or of `OrderedDict([(key, value), …])`."""
    if isinstance(node, ast.Call) and node.args:
        node = node.args[0]
    if isinstance(node, ast.Dict):
        return list(zip(node.keys, node.values, strict=True))
    rows = node.elts if isinstance(node, (ast.List, ast.Tuple)) else []
    return [(row.elts[0], row.elts[1]) for row in rows if isinstance(row, ast.Tuple) and len(row.elts) == 2]


# ------------------------------------------------------------------------------------- traits of one class


@dataclass(frozen=True)
class Traits:
    """What a class takes and gives, by its source.

    `call` and `components` map a parameter of `__call__` / `__init__` to whether it must be given; `spare` are
    those of `__call__` that its annotations say may be None; `kind` is what comes out (`image`, `video`, `audio`,
    `3d`, `prediction`, `text`, `embeddings`, or "" when it can't be told).
    """

    call: Mapping[str, bool]
    spare: frozenset[str]
    components: Mapping[str, bool]
    kind: str
    onnx: bool
    copied_from: frozenset[str]

    def takes(self, what: str) -> bool:
        """Whether `__call__` has a parameter of this sort (a row of `_INPUTS`)."""
        return not _INPUTS[what].isdisjoint(self.call)

    def needs(self, what: str) -> bool:
        """Whether a parameter of this sort has no default."""
        return any(self.call.get(name, False) for name in _INPUTS[what])

    def spares(self, what: str) -> bool:
        """Whether every parameter of this sort may be None by its annotation,
        which diffusers says only where it may."""
        return self.takes(what) and _INPUTS[what] & self.call.keys() <= self.spare


_NEXT_TOP_LEVEL = re.compile(r"^(?:class|def|@|if|[A-Za-z_]\w* *=)", re.MULTILINE)
_COPIED = re.compile(r"Copied from diffusers\.pipelines\.[\w.]*?\.([A-Z]\w+)")
_OUTPUT = re.compile(r"\b(\w*Output)\(\s*(\w+)\s*=")
_UNNAMED_OUTPUT = re.compile(r"\breturn (\w*Output)\((?!\s*\w+\s*=)")
_OPTIONAL = re.compile(r"^    _optional_components\b[^=\n]*=\s*\[([^\]]*)\]", re.MULTILINE)


@functools.lru_cache(maxsize=2)  # classes of one file are asked for in a row
def _cached_text(path: str) -> str:
    return _read(path)


def _class_source(record: ClassRecord) -> str:
    text = _cached_text(record.path)
    start = re.search(rf"^class[ \t]+{record.name}\b[^:]*:", text, re.MULTILINE)
    if start is None:
        return ""
    end = _NEXT_TOP_LEVEL.search(text, start.end())
    return text[start.start() : end.start() if end else len(text)]


def _header(source: str, method: str) -> re.Match[str] | None:
    """The match whose groups are the parameters and the return annotation of a method."""
    return re.search(
        rf"^    def {method}\((.*?)\)[ \t]*(?:->[ \t]*([^\n]*?))?:[ \t]*(?:#[^\n]*)?$", source, re.MULTILINE | re.DOTALL
    )


@functools.lru_cache(maxsize=2)  # asked for twice in a row
def _arguments(source: str) -> ast.arguments | None:
    try:
        return ast.parse(f"def header({source}\n): pass").body[0].args
    except SyntaxError:  # a shape that `_header` didn't foresee: nothing is known then, and nothing breaks
        return None


def _spare(source: str) -> frozenset[str]:
    """Names of the parameters that are annotated `Optional[...]` or `... | None`."""
    spec = _arguments(source)
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs] if spec else []
    return frozenset(item.arg for item in every if _admits_none(item.annotation))


def _admits_none(annotation: ast.expr | None) -> bool:
    if isinstance(annotation, ast.BinOp):
        return isinstance(annotation.right, ast.Constant) and annotation.right.value is None
    return (
        isinstance(annotation, ast.Subscript)
        and isinstance(name := annotation.value, ast.Name)
        and name.id == "Optional"
    )


def _parameters(source: str) -> dict[str, bool]:
    """Parameter name -> whether it must be given; `self` and `**kwargs` left out."""
    spec = _arguments(source)
    if spec is None:
        return {}
    plain = spec.posonlyargs + spec.args
    required = {item.arg: index < len(plain) - len(spec.defaults) for index, item in enumerate(plain)}
    required.update(
        (item.arg, default is None) for item, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    )
    required.pop("self", None)
    return required


def _output_kind(body: str, returns: str, file: str) -> str:
    """What comes out: by the output's keyword in the body (or, given without one, its first field in ``file``, the
    whole source), else by the words of the return annotation."""
    if re.search(r"[\"']mesh[\"']", body):  # only pipelines that make objects offer it as an output_type
        return "3d"
    for output, keyword in _OUTPUT.findall(body):
        if keyword in _FIELD_KINDS:
            return "video" if "Video" in output and keyword == "images" else _FIELD_KINDS[keyword]
    for output in _UNNAMED_OUTPUT.findall(body):
        field = re.search(rf"^class {output}\(.*?^    (\w+): \S", file, re.MULTILINE | re.DOTALL)
        if field and field[1] in _FIELD_KINDS:
            return _FIELD_KINDS[field[1]]
    for word, kind in (("Audio", "audio"), ("Video", "video"), ("Image", "image")):
        if f"{word}PipelineOutput" in returns + body:
            return kind
    return ""


@functools.cache
def _traits(name: str) -> Traits:
    """Traits of a cataloged class; what its own body lacks is taken from its first cataloged base."""
    record = _catalog()[name]
    source = _class_source(record)
    parent = next((_traits(base) for base in record.bases if base in _catalog()), None)
    call, init = _header(source, "__call__"), _header(source, "__init__")
    optional = _OPTIONAL.search(source)
    components = _parameters(init[1]) if init else dict(parent.components if parent else {})
    spared = set(re.findall(r"\w+", optional[1])) if optional else set()
    kind = _output_kind(source[call.start() :], call[2] or "", _cached_text(record.path)) if call else ""
    return Traits(
        call=_parameters(call[1]) if call else (parent.call if parent else {}),
        spare=_spare(call[1]) if call else (parent.spare if parent else frozenset()),
        components={part: needed and part not in spared for part, needed in components.items()},
        kind=kind or (parent.kind if parent and not call else ""),
        onnx=name.startswith("Onnx") or "_is_onnx = True" in source or bool(parent and parent.onnx),
        copied_from=frozenset(_COPIED.findall(source)) - {name},
    )


def pipeline_traits(class_name: str) -> Traits:
    """What a pipeline class takes and gives, by its source; nothing is imported. Raises UnknownPipelineError."""
    return _traits(_known_name(class_name))


# -------------------------------------------------------------------------------------- tasks of one class


def _word_pattern(tasks: Iterable[str]) -> re.Pattern[str]:
    words = sorted((word for task in tasks for word in TASKS[task].words), key=len, reverse=True)
    return re.compile("|".join(f"{word}(?![a-z])" for word in words))


_FAMILY_STRIPS = _word_pattern(task for task in TASKS if task not in _FAMILY_KEEPS)


def _tasks_by_name(class_name: str) -> list[str]:
    return [task for task in TASKS if TASKS[task].words and _word_pattern([task]).search(class_name)]


def _family(class_name: str) -> str:
    """The class name without `Pipeline` and without the words of a task; what starts the name stays."""
    stem = class_name.replace("Pipeline", "", 1)
    return stem[:1] + _FAMILY_STRIPS.sub("", stem[1:]) if stem else class_name


@functools.cache
def _base_family(class_name: str) -> str:
    """The family with its ControlNet form counted in."""
    return _word_pattern(["controlnet"]).sub("", _family(class_name))


def _tasks_by_signature(name: str) -> list[str]:
    """Tasks that the parameters of `__call__` and what comes out speak for."""
    traits = _traits(name)
    if any(needed and re.search(r"_embed(s|dings)$", part) for part, needed in traits.call.items()):
        return []  # a decoder: it can't start from what a request brings
    rule = _SIGNATURE_RULES.get(traits.kind)
    return rule(name, traits) if rule else []


def _image_tasks(name: str, traits: Traits) -> list[str]:
    # Where a control image has no name of its own, `image` is that control image.
    apart = not traits.call.keys().isdisjoint({"control_image", "strength", "hint"})
    image = traits.takes("image") and (apart or not re.search("Control[Nn]et|Adapter", name))
    if traits.takes("mask"):
        # An editor for which a mask is one more wish; where it is a must, the noise or the latents under it are, too.
        free = traits.spares("mask") and traits.spares("image") and traits.takes("prompt")
        spared = free and traits.call.keys().isdisjoint({"strength", "masked_image_latents"})
        return ["text-to-image", "image-to-image", "inpainting"] if spared else ["inpainting"]
    if image and (traits.needs("image") or not traits.takes("prompt") or "strength" in traits.call):
        return ["image-to-image"]
    if traits.takes("prompt"):
        return ["text-to-image", "image-to-image"] if image else ["text-to-image"]
    if "editing_prompt" in traits.call:
        return ["image-to-image"]
    return [] if any(traits.call.values()) else ["unconditional-image-generation"]


def _video_tasks(name: str, traits: Traits) -> list[str]:
    if traits.needs("video") and not traits.needs("image"):
        return ["video-to-video"]
    if traits.needs("image"):
        return ["image-to-video"]
    tasks = ["text-to-video"] * traits.takes("prompt")
    tasks += ["image-to-video"] * traits.takes("image")
    return tasks + ["video-to-video"] * traits.takes("video")


def _audio_tasks(name: str, traits: Traits) -> list[str]:
    if traits.needs("audio") or (traits.takes("audio") and "strength" in traits.call):
        return ["audio-to-audio"]
    if traits.takes("prompt"):
        return ["text-to-audio"]
    return [] if any(traits.call.values()) else ["unconditional-audio-generation"]


_SIGNATURE_RULES: Mapping[str, Callable[[str, Traits], list[str]]] = {
    "image": _image_tasks,
    "video": _video_tasks,
    "audio": _audio_tasks,
    "3d": lambda name, traits: ["image-to-3d" if traits.needs("image") else "text-to-3d"],
    "prediction": lambda name, traits: [_camel_to_kebab(_family(name)).rpartition("-")[2] + "-estimation"],
    "text": lambda name, traits: ["text-generation"] + ["image-text-to-text"] * traits.takes("image"),
}
# Where a class name has the word of a task that is not of its output, the word means something else
# (an inpainting of audio). Tasks that fit more than one kind have no row.
_TASK_KIND = {
    "inpainting": "image",
    "image-to-image": "image",
    "text-to-image": "image",
    "text-to-video": "video",
    "image-to-video": "video",
    "video-to-video": "video",
    "audio-to-audio": "audio",
}


@functools.cache
def pipeline_tasks(class_name: str) -> tuple[str, ...]:
    """Canonical task names (keys of `TASKS`) that a pipeline class does, the main one first.

    From the class name, the static signature and diffusers' AutoPipeline mappings; nothing is imported.
    Empty for decoders and priors, and for what is none of the tasks. DiffusionPipeline is `any-to-any`: the
    model decides. Raises UnknownPipelineError.
    """
    name = _known_name(class_name)
    if name == _ROOT_CLASS:
        return ("any-to-any",)
    if name.startswith(_AUTO_PREFIX):
        task = _task_index().get(_squeeze(name.removeprefix(_AUTO_PREFIX)))
        return (task,) if task else ()
    kind = _traits(name).kind
    named = [task for task in _tasks_by_name(name) if _TASK_KIND.get(task, kind) == kind]
    if "upscaling" in named:
        return ("upscaling",)
    shown = [task for task in _tasks_by_signature(name) if task in TASKS]
    if set(named) - {"controlnet"}:  # the name says what it starts from: text alone won't do
        shown = [task for task in shown if task not in ("text-to-image", "text-to-video", "text-to-audio")]
    mapped = [task for task in TASKS if name in _mapping_of(task).values()]
    return tuple(sorted(dict.fromkeys(named + mapped + shown), key=lambda task: task == "controlnet"))


@functools.cache
def _mapping_of(task: str) -> Mapping[str, str]:
    """diffusers' AutoPipeline table for a task: family key -> class name; empty where there is none."""
    for table, rows in _auto_mappings().items():
        words = _squeeze(table.removeprefix("AUTO_").removesuffix("_PIPELINES_MAPPING"))
        if _task_index().get(words) == task:
            return rows
    return {}


def _squeeze(text: str) -> str:
    """Letters and digits in lower case: what spellings of one name have in common."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


@_once
def _task_index() -> Mapping[str, str]:
    return {_squeeze(name): task for task, row in TASKS.items() for name in (task, *row.aliases, *row.words)}


def canonical_task(task: str) -> str:
    """The key of `TASKS` that any spelling or alias stands for: `img2img` -> `image-to-image`.

    Raises UnknownTaskError.
    """
    found = _task_index().get(_squeeze(task))
    if found is None:
        raise _unknown_task(task)
    return found


# --------------------------------------------------------------------------------------- order and aliases


@_once
def _copies() -> Counter[str]:
    """How many pipelines of other packages have code marked as copied from a class, or a `_base_family`."""
    records = _catalog()
    counts: Counter[str] = Counter()
    for record in sorted(records.values(), key=lambda record: record.path):
        for source in _traits(record.name).copied_from & records.keys():
            if records[source].package != record.package:
                counts.update((source, _base_family(source)))
    return counts


def _rank(name: str, task: str = "") -> tuple[Any, ...]:
    """Sort key: the class that an expert would name for a task comes first."""
    record, traits = _catalog()[name], _traits(name)
    mapped = list(_mapping_of(task).values()) if task else []
    return (
        not name.startswith(_AUTO_PREFIX),
        record.deprecated,
        traits.onnx,
        bool(mapped) and name not in mapped,
        # Class labels are a condition: such a class is not the plain unconditional one.
        task.startswith("unconditional") and "class_labels" in traits.call,
        task != "controlnet" and "controlnet" in pipeline_tasks(name),
        -_copies()[_base_family(name)],
        -_copies()[name],
        mapped.index(name) if name in mapped else len(mapped),
        len(traits.call),
        name,
    )


def _camel_to_kebab(name: str) -> str:
    """`StableDiffusionXLPipeline` -> `stable-diffusion-xl-pipeline`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def _family_names(class_name: str) -> list[str]:
    """Kebab spellings of a class's family and of the class itself without `Pipeline`.

    A number gets both forms (`flux2`, `flux-2`), a ControlNet is one word, and so are `img2img` and its like.
    """
    family = _family(class_name)
    rest = class_name.replace("Pipeline", "", 1)
    words = _FAMILY_STRIPS.search(rest, 1)
    stems = [family, rest] + ([] if words is None else [f"{family}-{words[0].lower()}"])
    names = [_camel_to_kebab(stem).replace("control-net", "controlnet") for stem in stems]
    names += [re.sub(r"([a-z])(\d+)$", r"\1-\2", name) for name in names[:1]]
    return list(dict.fromkeys(name.replace("--", "-").strip("-") for name in names if name))


def _extract_task_keywords(class_name: str) -> list[str]:
    """Aliases of a class: its tasks in all their spellings, then its family and its own kebab name.

    A name that diffusers lacks is judged by its words alone.
    """
    known = class_name in _catalog()
    tasks = pipeline_tasks(class_name) if known else _tasks_by_name(class_name)
    names = [name for task in tasks for name in (task, *TASKS[task].aliases)]
    if known and (class_name.startswith(_AUTO_PREFIX) or class_name == _ROOT_CLASS):
        return list(dict.fromkeys(names))
    return list(dict.fromkeys(names + _family_names(class_name)))


def _build_aliases() -> dict[str, list[str]]:
    records = _catalog()
    aliases: dict[str, list[str]] = {}
    for task, row in TASKS.items():
        doing = [name for name in records if task in pipeline_tasks(name)]
        doing.sort(key=lambda name: _rank(name, task))
        aliases.update((alias, list(doing)) for alias in (task, *row.aliases) if doing)
    tasks = set(aliases)
    families: dict[str, list[str]] = {}
    for name in records:
        if not name.startswith(_AUTO_PREFIX) and name != _ROOT_CLASS:
            for alias in _family_names(name):
                families.setdefault(alias, []).append(name)
    for rows in _auto_mappings().values():  # diffusers' own family keys, such as `qwenimage`
        for key, name in rows.items():
            families.setdefault(key.replace("_", "-"), []).append(name)
    for alias, names in families.items():
        if alias not in tasks:
            # the plain class, which bears the alias as its whole name, comes first
            plain = {name for name in names if _squeeze(name.replace("Pipeline", "", 1)) == _squeeze(alias)}
            known = records.keys() & set(names)
            aliases[alias] = sorted(known, key=lambda name: (name not in plain, _rank(name)))
    return {alias: names for alias, names in aliases.items() if names}


# -------------------------------------------------------------------------------------------- the registry


class PipelineRegistry(Mapping[str, type]):
    """Read-only mapping class name -> class; names are free, looking one up imports its defining module.

    `registry[name]` raises KeyError for an unknown name and PipelineImportError, which names the missing
    package, for a class that can't be imported here.
    """

    def __init__(self, records: Mapping[str, ClassRecord]) -> None:
        self._records = dict(sorted(records.items()))

    def __getitem__(self, name: str) -> type:
        return _import_class(self._records[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._records  # Mapping's own would import the class

    def __repr__(self) -> str:
        return f"<PipelineRegistry of {len(self)} classes>"


_pipeline_registry: PipelineRegistry | None = None
_task_aliases: dict[str, list[str]] | None = None
_class_registries: dict[tuple[str, bool], dict[str, type]] = {}


def _import_class(record: ClassRecord) -> type:
    """Import the defining module, one thread at a time: diffusers' lazy modules don't take a race well."""
    try:
        with _import_lock:
            return getattr(importlib.import_module(record.module), record.name)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise _import_error(record, error) from error


def _import_error(record: ClassRecord, error: BaseException) -> PipelineImportError:
    cause: BaseException | None = error
    while cause is not None:
        package = (getattr(cause, "name", None) or "").partition(".")[0]
        if isinstance(cause, ModuleNotFoundError) and package and package != "diffusers":
            hint = f"install it with: pip install {_PIP_NAMES.get(package, package)}"
            return PipelineImportError(
                f"{record.name} can't be imported: the package '{package}' is missing; {hint}", name=package
            )
        cause = cause.__cause__ or cause.__context__
    package = (getattr(error, "name", None) or "").partition(".")[0]
    hint = f"; try: pip install --upgrade {_PIP_NAMES.get(package, package)}" if package else ""
    return PipelineImportError(f"{record.name} can't be imported: {error}{hint}", name=package or None)


def get_pipeline_registry() -> PipelineRegistry:
    """The mapping of all pipelines (and AutoPipelines) by class name: one object a process, no imports."""
    global _pipeline_registry
    with _build_lock:
        if _pipeline_registry is None:
            _pipeline_registry = PipelineRegistry(_catalog())
        return _pipeline_registry


def get_task_aliases() -> dict[str, list[str]]:
    """Alias (a task, a Hub pipeline tag, a family like `stable-diffusion-xl`) -> class names, best first."""
    global _task_aliases
    with _build_lock:
        if _task_aliases is None:
            _task_aliases = _build_aliases()
        return _task_aliases


def get_available_pipelines() -> list[str]:
    """Sorted names of all pipeline classes; imports neither torch nor diffusers."""
    return sorted(get_pipeline_registry())


def get_available_tasks() -> list[str]:
    """Sorted aliases that `resolve_pipeline_class(task=…)` takes; imports neither torch nor diffusers."""
    return sorted(get_task_aliases())


def discover_diffusers_classes(base_class_name: str, include_base: bool = True) -> dict[str, type]:
    """All classes of diffusers below a base (`SchedulerMixin`, `ModelMixin`, …), imported: name -> class.

    Every class is imported from its own module; those that can't be are left out, and logged at DEBUG. The
    same dict each time for the same arguments. Raises ValueError when diffusers has no such base class.
    """
    key = (base_class_name, include_base)
    with _import_lock:
        if key not in _class_registries:
            _class_registries[key] = _discover(base_class_name, include_base)
        return _class_registries[key]


@_once
def _all_records() -> tuple[ClassRecord, ...]:
    return tuple(_scan(_diffusers_folder(), "diffusers"))


def _base_record(class_name: str) -> ClassRecord:
    """Where the base class is. ValueError with the closest name where there is none."""
    found = next((record for record in _all_records() if record.name == class_name), None)
    if found is None:
        names = sorted({record.name for record in _all_records()})
        raise ValueError(f"Could not find base class '{class_name}' in diffusers. {_closest(class_name, names)}")
    return found


def _discover(base_class_name: str, include_base: bool) -> dict[str, type]:
    base = _import_class(_base_record(base_class_name))
    found = {base_class_name: base} if include_base else {}
    for record in _subclasses(_all_records(), base_class_name):
        try:
            candidate = _import_class(record)
        except PipelineImportError as error:
            log.debug("left out of %s: %s", base_class_name, error)
            continue
        if isinstance(candidate, type) and issubclass(candidate, base) and candidate is not base:
            found.setdefault(record.name, candidate)
    return found


def get_available_classes(base_class_name: str) -> list[str]:
    """Sorted names of all classes of diffusers below a base, itself included; imports neither torch nor diffusers.

    Those of `discover_diffusers_classes`, and any that can't be imported because a package of theirs is missing.
    Raises ValueError when diffusers has no such base class.
    """
    base = _base_record(base_class_name)
    return sorted({base.name, *(record.name for record in _subclasses(_all_records(), base.name))})


# ------------------------------------------------------------------------------------- names in, names out


def _closest(word: str, choices: Iterable[str], count: int = 5) -> str:
    """`Did you mean …?` with the nearest names, or nothing; spelling and case differences count little."""
    spelled = {_squeeze(form): name for name in choices for form in (name, name.replace("Pipeline", ""))}
    squeezed = _squeeze(word)
    found = difflib.get_close_matches(squeezed, spelled, n=count, cutoff=0.6)
    found += [key for key in spelled if len(squeezed) > 3 and squeezed in key]
    names = list(dict.fromkeys(spelled[key] for key in found))[:count]
    return f"Did you mean {', '.join(names)}? " if names else ""


def _some(names: list[str], hint: str, count: int = 20) -> str:
    rest = f", and {len(names) - count} more ({hint})" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def _unknown_pipeline(name: str, start: str = "Unknown pipeline class '{}'. ") -> UnknownPipelineError:
    names = get_available_pipelines()
    listed = _some(names, "get_available_pipelines() lists them")
    return UnknownPipelineError(f"{start.format(name)}{_closest(name, names)}Available pipelines: {listed}")


def _unknown_task(task: str) -> UnknownTaskError:
    return UnknownTaskError(
        f"Unknown task '{task}'. {_closest(task, get_available_tasks())}"
        f"Available tasks: {', '.join(TASKS)}, and every model family "
        "(get_available_tasks() lists them)"
    )


@_once
def _lower_names() -> Mapping[str, str]:
    return {name.lower(): name for name in _catalog()}


def _known_name(class_name: str) -> str:
    """The class name in its own spelling. Raises UnknownPipelineError."""
    found = _lower_names().get(class_name.strip().lower())
    if found is None:
        raise _unknown_pipeline(class_name)
    return found


@_once
def _alias_index() -> Mapping[str, str]:
    return {_squeeze(alias): alias for alias in reversed(get_task_aliases())}


def _known_alias(task: str) -> str:
    """The alias in the spelling of `get_task_aliases()`. Raises UnknownTaskError."""
    found = _alias_index().get(_squeeze(task))
    if found is None:
        raise _unknown_task(task)
    return found


# ------------------------------------------------------------------------------------------------ siblings


def _sibling_by_mapping(name: str, task: str) -> str | None:
    """diffusers' own answer: the class of the same family key in the task's AutoPipeline table."""
    key = next((key for rows in _auto_mappings().values() for key, own in rows.items() if own == name), None)
    return _mapping_of(task).get(key) if key is not None else None


def _sibling_by_rule(name: str, task: str) -> str | None:
    """The class of the same name family that does the task with the components that the model's class has."""
    if task in _OWN_WEIGHTS:
        return None
    own, traits = _catalog()[name], _traits(name)
    # A ControlNet form is a family of its own; asked for one, it counts as a form of its base.
    family = _base_family if task == "controlnet" else _family
    fits = []
    for other, record in _catalog().items():
        if other.startswith(_AUTO_PREFIX) or family(other) != family(name):
            continue
        theirs = _traits(other)
        missing = {part for part, needed in theirs.components.items() if needed} - traits.components.keys()
        same = theirs.onnx == traits.onnx and task in pipeline_tasks(other)
        if same and missing <= _BROUGHT.get(task, frozenset()):
            fits.append((len(missing), record.package != own.package, len(other), _rank(other, task), other))
    return min(fits)[-1] if fits else None


def find_sibling_name(class_name: str, task: str) -> str:
    """Name of the class that does `task` on the weights of `class_name`; nothing is imported.

    The class itself when it does the task, else diffusers' AutoPipeline mapping, else the same name family
    with no component missing (a task's own, such as `controlnet`, may be). Raises NoSiblingError, which
    lists the candidates, UnknownPipelineError, UnknownTaskError.
    """
    name, wanted = _known_name(class_name), canonical_task(task)
    if wanted in pipeline_tasks(name) or wanted == "any-to-any":  # a tag that leaves the choice to the model
        return name
    found = _sibling_by_mapping(name, wanted) or _sibling_by_rule(name, wanted)
    if found is None:
        others = get_task_aliases().get(wanted, [])
        raise NoSiblingError(
            f"{name} does {', '.join(pipeline_tasks(name)) or 'no task of its own'} and has no sibling for "
            f"'{wanted}' on the same weights. Classes for it: {_some(others, 'see get_task_aliases()', 10)}"
        )
    return found


def find_sibling(pipeline: str | type, task: str) -> type:
    """The class, imported, that does `task` on the weights of a pipeline class (or its name).

    See find_sibling_name for the order and the errors.
    """
    name = pipeline if isinstance(pipeline, str) else pipeline.__name__
    return get_pipeline_registry()[find_sibling_name(name, task)]


# --------------------------------------------------------------------------------- what a model says it is


@dataclass(frozen=True)
class ModelFacts:
    """What a folder, a repo or a checkpoint says of itself.

    `class_name` is the class of its `model_index.json` ("" when none is named); `modular` marks one that
    runs as a ModularPipeline, `custom` one whose class is code in the repo; `source` is `folder`, `file`,
    `hub` or `cache`; `note` says why nothing is known.
    """

    model_id: str
    source: str
    class_name: str = ""
    pipeline_tag: str = ""
    modular: bool = False
    custom: bool = False
    note: str = ""


def inspect_model(
    model_id: str,
    token: str | bool | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> ModelFacts:
    """Find out which pipeline class a model names; nothing but small JSON files is read.

    A local folder is read from `model_index.json` or `modular_model_index.json`. For a repo id the Hub is
    asked (HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count, as huggingface_hub does it); what the cache holds
    is used when the Hub can't or mustn't be asked. Raises GatedModelError, MissingModelError,
    UnreachableHubError.
    """
    if os.path.isdir(model_id):
        return _facts_of_folder(model_id, model_id, "folder")
    if os.path.isfile(model_id):
        return ModelFacts(model_id, "file", note="a single file names no class")
    if model_id.startswith(("/", "./", "../", "~")):
        raise MissingModelError(f"'{model_id}' does not exist on this machine")
    try:
        if local_files_only:
            raise UnreachableHubError(f"'{model_id}' is not in the local cache, and local_files_only is set")
        return _facts_of_repo(model_id, token, revision, cache_dir)
    except HubError as error:
        cached = _facts_in_cache(model_id, revision, cache_dir)
        if cached is None:
            raise
        log.info("%s: using the cached copy (%s)", model_id, type(error).__name__)
        return cached


def _facts_of_folder(folder: str, model_id: str, source: str) -> ModelFacts:
    for file, modular in (("model_index.json", False), ("modular_model_index.json", True)):
        path = os.path.join(folder, file)
        if os.path.isfile(path):
            try:
                index = json.loads(_read(path))
            except ValueError as error:
                raise ValueError(f"'{path}' is no valid JSON: {error}") from error
            return _facts_of_index(model_id, source, index.get("_class_name"), modular)
    return ModelFacts(model_id, source, note="it has no model_index.json")


def _facts_of_index(model_id: str, source: str, named: Any, modular: bool = False) -> ModelFacts:
    """Facts from a `_class_name`: a string, or [module, class] where the class is code in the repo."""
    if isinstance(named, (list, tuple)) and named:
        return ModelFacts(model_id, source, str(named[-1]), custom=True)
    # diffusers reads Flax folders as their PyTorch class as well
    name = str(named or "").removeprefix("Flax")
    note = "" if name else "its model_index.json names no class"
    return ModelFacts(model_id, source, name, modular=modular or "ModularPipeline" in name, note=note)


def _facts_of_repo(model_id: str, token: str | bool | None, revision: str | None, cache_dir: str | None) -> ModelFacts:
    hub = _huggingface_hub()
    try:
        info = hub.model_info(model_id, token=token, revision=revision, timeout=10)
    except Exception as error:
        raise _hub_error(model_id, error) from error
    config = (getattr(info, "config", None) or {}).get("diffusers") or {}
    tag = getattr(info, "pipeline_tag", None) or ""
    files = {sibling.rfilename for sibling in getattr(info, "siblings", None) or ()}
    facts = _facts_of_index(model_id, "hub", config.get("_class_name"))
    for file in ("model_index.json", "modular_model_index.json"):
        if not facts.class_name and file in files:
            facts = _facts_of_file(hub, model_id, file, token=token, revision=revision, cache_dir=cache_dir)
    if not facts.class_name and "modular_config.json" in files:  # the code of a modular pipeline's blocks, and no index
        facts = ModelFacts(model_id, "hub", "ModularPipeline", modular=True, custom=True)
    note = "" if facts.class_name else f"the Hub names no class for it (pipeline tag: '{tag or 'none'}')"
    return ModelFacts(model_id, "hub", facts.class_name, tag, facts.modular, facts.custom, note)


def _facts_of_file(hub: Any, model_id: str, file: str, **where: Any) -> ModelFacts:
    try:
        path = hub.hf_hub_download(model_id, file, **where)
    except Exception as error:
        raise _hub_error(model_id, error) from error
    return _facts_of_folder(os.path.dirname(path), model_id, "hub")


def _facts_in_cache(model_id: str, revision: str | None, cache_dir: str | None) -> ModelFacts | None:
    try:
        hub = _huggingface_hub()
        paths = [
            hub.try_to_load_from_cache(model_id, file, cache_dir=cache_dir, revision=revision)
            for file in ("model_index.json", "modular_model_index.json")
        ]
    except (HubError, ValueError):
        return None
    found = next((path for path in paths if isinstance(path, str)), None)
    return _facts_of_folder(os.path.dirname(found), model_id, "cache") if found else None


def _huggingface_hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UnreachableHubError(
            "the Hub can't be asked: the package 'huggingface_hub' is missing; install "
            "it with: pip install huggingface_hub, or give a local folder"
        ) from error


def _hub_error(model_id: str, error: BaseException) -> HubError | None:
    """The clear form of an error of huggingface_hub or its HTTP client; None for an error of another sort.

    The cause's own text stays out of the message: LocalAI's core reads some of its phrases as signals.
    """
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    kinds = {cls.__name__ for cls in type(error).__mro__}
    where = os.environ.get("HF_ENDPOINT") or "the Hugging Face Hub"
    closed = status in (401, 403) and "RepositoryNotFoundError" not in kinds
    if closed or kinds & {"GatedRepoError", "DisabledRepoError"}:
        return GatedModelError(
            f"'{model_id}' is gated or not open to this token (HTTP {status}): accept its "
            f"terms at {where}, then set HF_TOKEN to a token of that account"
        )
    if "RemoteEntryNotFoundError" in kinds:
        file = str(getattr(response, "url", "")).rpartition("/")[2]
        return MissingModelError(f"'{model_id}' has no file '{file}' on {where}: is it a diffusers pipeline?")
    if kinds & {"RepositoryNotFoundError", "RevisionNotFoundError"} or status == 404:
        return MissingModelError(
            f"'{model_id}' was not found on {where} (HTTP {status}): check its spelling "
            "and revision; for a private model set HF_TOKEN"
        )
    if "HFValidationError" in kinds:
        return MissingModelError(f"'{model_id}' is neither a path on this machine nor a repo id (owner/name)")
    if "OfflineModeIsEnabled" in kinds or "LocalEntryNotFoundError" in kinds:
        return UnreachableHubError(
            f"'{model_id}' is not in the local cache and {where} can't be asked: "
            "unset HF_HUB_OFFLINE, check the network, or give a local folder"
        )
    network = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests", "urllib3")
    if status is not None or network or isinstance(error, (ConnectionError, TimeoutError)):
        said = f"HTTP {status}" if status is not None else type(error).__name__
        return UnreachableHubError(
            f"{where} gave no answer about '{model_id}' ({said}): check the network "
            "and HF_ENDPOINT, or give a local folder"
        )
    return None


def _hub_error_within(model_id: str, error: BaseException) -> HubError | None:
    """The Hub's error behind one of diffusers, which wraps it in an OSError; None behind any other."""
    cause = error if isinstance(error, OSError) or _hub_error(model_id, error) else None
    while cause is not None:
        if found := _hub_error(model_id, cause):
            return found
        cause = cause.__cause__ or cause.__context__
    return None


# ------------------------------------------------------------------------------------------------- resolve


def resolve_pipeline_class(class_name: str | None = None, task: str | None = None, model_id: str | None = None) -> type:
    """The pipeline class for a class name, else for a task (fitted to the model if given), else for a model.

    Class names are case-insensitive; a task is any alias of `get_task_aliases()`. With a model alone that
    nothing is known of, DiffusionPipeline is the answer, and a warning tells why. Raises
    UnknownPipelineError, UnknownTaskError, NoSiblingError, PipelineImportError, and ValueError when nothing
    was given.
    """
    if not (class_name or task or model_id):
        listed = _some(get_available_pipelines(), "get_available_pipelines() lists them")
        raise ValueError(
            "Must provide at least one of: class_name, task, or model_id. "
            f"Available pipelines: {listed}. Available tasks: {', '.join(TASKS)}"
        )
    if class_name:
        return get_pipeline_registry()[_known_name(class_name)]
    alias = _known_alias(task) if task else ""
    facts = None
    if model_id:
        try:
            facts = inspect_model(model_id)
        except HubError as error:
            facts = ModelFacts(model_id, "unknown", note=str(error))
    return _class_for(alias, facts)


def resolve_pipeline_type(text: str, model_id: str | None = None) -> type:
    """The class for a text that may be a class name or any alias: what LocalAI's `pipeline_type` holds.

    Raises UnknownPipelineError when it is neither.
    """
    if text.strip().lower() in _lower_names():
        return resolve_pipeline_class(class_name=text)
    if _squeeze(text) in _alias_index():
        return resolve_pipeline_class(task=text, model_id=model_id)
    raise _unknown_pipeline(text)


def _class_for(alias: str, facts: ModelFacts | None) -> type:
    """The class for an alias of `get_task_aliases()` ("": none), a model, or both."""
    registry, own = get_pipeline_registry(), facts.class_name if facts else ""
    if alias and own in registry and not facts.custom:
        names = get_task_aliases()[alias]
        if own in names:
            return registry[own]
        return find_sibling(own, alias) if _squeeze(alias) in _task_index() else registry[names[0]]
    if alias:
        return registry[get_task_aliases()[alias][0]]
    if own and not facts.custom:
        return _class_named_by(facts)
    tag = _alias_index().get(_squeeze(facts.pipeline_tag)) if facts.pipeline_tag else None
    if tag:
        return registry[get_task_aliases()[tag][0]]
    if not facts.custom:
        log.warning("%s: falling back to %s: %s", facts.model_id, _ROOT_CLASS, facts.note)
    return registry[_ROOT_CLASS]


def _class_named_by(facts: ModelFacts) -> type:
    """The class that a model names, modular ones included."""
    registry = get_pipeline_registry()
    if facts.class_name in registry:
        return registry[facts.class_name]
    record = next((record for record in _all_records() if record.name == facts.class_name), None)
    if record is None:
        start = f"Unknown pipeline class '{{}}', named by {facts.model_id}: is diffusers here older? "
        raise _unknown_pipeline(facts.class_name, start)
    return _import_class(record)


# ---------------------------------------------------------------------------------------------------- load


def load_diffusers_pipeline(
    class_name: str | None = None,
    task: str | None = None,
    model_id: str | None = None,
    from_single_file: bool = False,
    device: str | None = None,
    **kwargs: Any,
) -> Any:
    """Load a pipeline from a local folder, a single checkpoint file, a URL of one, or a Hub repo id.

    The class is `class_name`, else the one that does `task` on this model, else the model's own.
    `from_single_file` is implied by a path or URL of a checkpoint. `device` None leaves the pipeline where
    diffusers puts it (the CPU), "auto" takes CUDA (or ROCm), else XPU, else MPS, else CPU, and any other
    value is passed to `.to()`. `kwargs` go to `from_pretrained` or `from_single_file` as they are:
    `torch_dtype`, `variant`, `token`, `config`, ….

    Raises ValueError for a name that is unknown or a model that can't be loaded this way,
    PipelineImportError, GatedModelError, MissingModelError, UnreachableHubError, and what diffusers raises.
    """
    if not model_id:
        raise ValueError("model_id is required to load: a local folder, a checkpoint file or a repo id")
    model_id = os.fspath(model_id)
    try:
        if from_single_file or _looks_single(model_id):
            pipeline = _load_single_file(class_name, task, model_id, kwargs)
        else:
            pipeline = _load_pretrained(class_name, task, model_id, kwargs)
    except HubError:
        raise
    except Exception as error:
        clear = _hub_error_within(model_id, error)
        if clear is None:
            raise
        raise clear from error
    return pipeline.to(pick_device() if device == "auto" else device) if device else pipeline


def pick_device() -> str:
    """The first of `cuda` (ROCm too), `xpu`, `mps` that torch can use here, else `cpu`."""
    import torch

    accelerators = {"cuda": torch.cuda, "xpu": getattr(torch, "xpu", None), "mps": torch.backends.mps}
    return next((name for name, found in accelerators.items() if found and found.is_available()), "cpu")


def _looks_single(model_id: str) -> bool:
    """Whether this is a checkpoint: an existing file, or a URL or missing path that ends like one."""
    if os.path.isdir(model_id):
        return False
    return os.path.isfile(model_id) or model_id.partition("?")[0].lower().endswith(_SINGLE_FILE_SUFFIXES)


def _hub_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    known = ("token", "revision", "cache_dir", "local_files_only")
    return {key: kwargs[key] for key in known if key in kwargs}


def _load_pretrained(class_name: str | None, task: str | None, model_id: str, kwargs: Mapping[str, Any]) -> Any:
    if class_name:
        chosen = resolve_pipeline_class(class_name=class_name)
    else:
        alias = _known_alias(task) if task else ""  # a wrong task is told before the Hub is asked
        facts = inspect_model(model_id, **_hub_options(kwargs))
        if facts.modular:
            raise ValueError(
                f"'{model_id}' is a modular pipeline ({facts.class_name}); load it with "
                "diffusers.ModularPipeline.from_pretrained"
            )
        if facts.source == "folder" and not facts.class_name:
            raise ValueError(f"'{model_id}' can't be loaded as a pipeline: {facts.note}")
        chosen = _class_for(alias, facts)
    if not hasattr(chosen, "from_pretrained"):
        raise ValueError(f"{chosen.__name__} has no from_pretrained")
    _expose_deprecated(_component_classes(model_id, kwargs))
    return chosen.from_pretrained(model_id, **kwargs)


def _component_classes(model_id: str, kwargs: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Library and class of each component in a model's index; empty where no index can be read."""
    path = os.path.join(model_id, "model_index.json")
    if not os.path.isdir(model_id):
        try:
            path = _huggingface_hub().hf_hub_download(model_id, "model_index.json", **_hub_options(kwargs))
        except Exception:  # from_pretrained meets the same trouble and tells it better
            return set()
    if not os.path.isfile(path):
        return set()
    rows = [row for row in json.loads(_read(path)).values() if isinstance(row, list) and len(row) == 2]
    return {(row[0], row[1]) for row in rows if all(isinstance(name, str) for name in row)}


def _expose_deprecated(components: Iterable[tuple[str, str]]) -> None:
    """Let diffusers find component classes of its deprecated pipelines.

    Models name them by their package ("unclip"); diffusers 0.42.1 looks for that package as an attribute of
    `diffusers.pipelines`, and those that it moved into `pipelines.deprecated` are not there. Itself it saves classes
    of other folders called so (a scheduler's) as of the package "deprecated", which has them not either. Nothing but
    packages of diffusers itself is imported.
    """
    home = "diffusers.pipelines.deprecated"
    moved = {record.module.split(".")[3] for record in _catalog().values() if record.module.startswith(home + ".")}
    wanted = sorted(row for row in components if row[0] in {*moved, "deprecated"})
    if not wanted:
        return
    with _import_lock:
        diffusers, pipelines = importlib.import_module("diffusers"), importlib.import_module("diffusers.pipelines")
        for library, name in wanted:
            if library in moved and not hasattr(pipelines, library):
                setattr(pipelines, library, importlib.import_module(f"{home}.{library}"))
            elif library == "deprecated" and hasattr(diffusers, name):
                setattr(importlib.import_module(home), name, getattr(diffusers, name))


def _load_single_file(class_name: str | None, task: str | None, model_id: str, kwargs: Mapping[str, Any]) -> Any:
    if os.path.isdir(model_id):
        raise ValueError(f"'{model_id}' is a folder, not a checkpoint file: load it without from_single_file")
    if model_id.startswith(("/", "./", "../")) and not os.path.exists(model_id):
        raise MissingModelError(f"'{model_id}' does not exist on this machine")
    chosen = resolve_pipeline_class(class_name=class_name) if class_name else None
    if chosen is not None and hasattr(chosen, "from_single_file"):
        return chosen.from_single_file(model_id, **kwargs)
    named = chosen.__name__ if chosen is not None else ""
    if named and named != _ROOT_CLASS and not named.startswith(_AUTO_PREFIX):
        raise ValueError(
            f"{named} can't load a single file (it has no from_single_file): give the model's folder or repo id"
        )
    if named.startswith(_AUTO_PREFIX):
        task = pipeline_tasks(named)[0]
    chosen = resolve_checkpoint_class(model_id, task, **kwargs)
    if not hasattr(chosen, "from_single_file"):
        raise ValueError(
            f"'{model_id}' belongs to {chosen.__name__}, which can't load a single file: give "
            "the model's folder or repo id"
        )
    return chosen.from_single_file(model_id, **kwargs)


def resolve_checkpoint_class(model_id: str, task: str | None = None, **kwargs: Any) -> type:
    """The class for a single checkpoint file, fitted to a task.

    It is the class that `config=` (a folder or repo id) names, else the one of the Hub repo that diffusers
    gives for such weights; of a .safetensors file only the header is read. Raises ValueError for weights of
    no known family, UnknownTaskError, and HubError, which says what to pass instead.
    """
    alias = _known_alias(task) if task else ""
    config = kwargs.get("config") or _config_repo(model_id, kwargs)
    try:
        facts = inspect_model(str(config), **_hub_options(kwargs))
    except HubError as error:
        said = (
            f"'{model_id}' names no pipeline class, and its family's can't be looked up: {error}. "
            "Offline, pass config= a local folder with a model_index.json, or class_name="
        )
        raise type(error)(said) from error
    if not facts.class_name:
        raise ValueError(
            f"'{model_id}' names no pipeline class, and neither does '{config}' ({facts.note}): "
            "pass config= a local folder whose model_index.json names the class, or class_name="
        )
    return _class_for(alias, facts)


def _config_repo(model_id: str, kwargs: Mapping[str, Any]) -> str:
    """The Hub repo whose configuration fits a checkpoint's weights, by diffusers' own table."""
    with _import_lock:
        utils = importlib.import_module("diffusers.loaders.single_file_utils")
    weights = (
        _shapes(model_id)
        if model_id.endswith(".safetensors") and os.path.isfile(model_id)
        else utils.load_single_file_checkpoint(model_id, **_hub_options(kwargs))
    )
    kind = utils.infer_diffusers_model_type(weights)
    # diffusers answers "v1" for whatever it doesn't know, a language model's weights included
    known = ("model.diffusion_model.", "cond_stage_model.")
    if kind == "v1" and not any(key.startswith(known) for key in weights):
        raise ValueError(f"'{model_id}' is no checkpoint that diffusers knows: its weights fit no family")
    return utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]


def _shapes(path: str) -> dict[str, SimpleNamespace]:
    """Tensor name -> an object with its `shape`, from a .safetensors header: no weights are read."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 0 < size <= os.path.getsize(path) - 8:
            raise ValueError(f"'{path}' is no .safetensors file: its header is broken")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {key: SimpleNamespace(shape=tuple(row["shape"])) for key, row in header.items()}


# ---------------------------------------------------------------------------------------------------- info


def get_pipeline_info(class_name: str) -> dict[str, Any]:
    """What a pipeline is and takes; imports the class.

    Keys: `name`, `aliases`, `tasks`, `module`, `deprecated`, `docstring`, `supports_single_file`,
    `supports_lora`, `inputs` and `components` (parameter -> {"required", "default", "type"}), `output`
    (what comes out). Raises UnknownPipelineError (`Unknown pipeline: …`) and PipelineImportError.
    """
    if class_name.strip().lower() not in _lower_names():
        raise _unknown_pipeline(class_name, "Unknown pipeline: '{}'. ")
    name = _known_name(class_name)
    record, cls = _catalog()[name], get_pipeline_registry()[name]
    auto = name.startswith(_AUTO_PREFIX) or name == _ROOT_CLASS
    return {
        "name": name,
        "aliases": _extract_task_keywords(name),
        "tasks": list(pipeline_tasks(name)),
        "module": record.module,
        "deprecated": record.deprecated,
        "docstring": (cls.__doc__ or "").strip(),
        "supports_single_file": hasattr(cls, "from_single_file"),
        "supports_lora": hasattr(cls, "load_lora_weights"),
        "inputs": {} if auto else _describe(cls.__call__),
        "output": "" if auto else _traits(name).kind,
        "components": {} if auto else _describe(cls.__init__, getattr(cls, "_optional_components", ())),
    }


def _describe(function: Callable[..., Any] | None, optional: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Parameter -> whether it is required, its default (None when required) and its type as text."""
    import inspect

    if function is None:
        return {}
    empty, optional = inspect.Parameter.empty, set(optional)
    rows = {}
    for name, item in inspect.signature(function).parameters.items():
        if name != "self" and item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL):
            known = item.annotation is not empty
            rows[name] = {
                "required": item.default is empty and name not in optional,
                "default": None if item.default is empty else item.default,
                "type": inspect.formatannotation(item.annotation) if known else "",
            }
    return rows
