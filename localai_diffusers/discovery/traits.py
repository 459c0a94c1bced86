# SPDX-License-Identifier: MIT
"""What one class takes and gives, read from the source of its ``__call__`` and ``__init__``."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from localai_diffusers.discovery.names import known_name
from localai_diffusers.discovery.source import ClassRecord, catalog, read_text

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
        """Whether every parameter of this sort may be None by its annotation: diffusers says so only where it may."""
        return self.takes(what) and _INPUTS[what] & self.call.keys() <= self.spare


_NEXT_TOP_LEVEL = re.compile(r"^(?:class|def|@|if|[A-Za-z_]\w* *=)", re.MULTILINE)


_COPIED = re.compile(r"Copied from diffusers\.pipelines\.[\w.]*?\.([A-Z]\w+)")


_OUTPUT = re.compile(r"\b(\w*Output)\(\s*(\w+)\s*=")


_UNNAMED_OUTPUT = re.compile(r"\breturn (\w*Output)\((?!\s*\w+\s*=)")


_OPTIONAL = re.compile(r"^    _optional_components\b[^=\n]*=\s*\[([^\]]*)\]", re.MULTILINE)


@functools.lru_cache(maxsize=2)  # classes of one file are asked for in a row
def _cached_text(path: str) -> str:
    return read_text(path)


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
        header = ast.parse(f"def header({source}\n): pass").body[0]
        return header.args if isinstance(header, ast.FunctionDef) else None
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
def traits_of(name: str) -> Traits:
    """Traits of a cataloged class; what its own body lacks is taken from its first cataloged base."""
    record = catalog()[name]
    source = _class_source(record)
    parent = next((traits_of(base) for base in record.bases if base in catalog()), None)
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
    return traits_of(known_name(class_name))
