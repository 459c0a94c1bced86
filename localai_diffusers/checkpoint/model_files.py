# SPDX-License-Identifier: MIT
"""What a model is on disk: where it stands, which class and components it names, its weights and their dtypes.

Reads configs and headers only, never weights, so that a load can be refused before anything is allocated.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from localai_diffusers.checkpoint import headers
from localai_diffusers.discovery.index import INDEX_FILE, MODULAR_INDEX_FILE, Index, json_object, read_index
from localai_diffusers.discovery.words import DENOISERS
from localai_diffusers.errors import LoadError

log = logging.getLogger(__name__)

_BLOCKS_FILE = "modular_config.json"  # names the code of a modular pipeline's own blocks
SAFE_SUFFIXES = (".safetensors", ".gguf")
PICKLE_SUFFIXES = headers.PICKLE_SUFFIXES
_HUB_URL = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[^/]+/[^/]+)/(?:blob|resolve|raw)/"
    r"(?P<revision>[^/]+)/(?P<file>.+)"
)
_HUB_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)/?(?:tree/(?P<revision>[^/]+)/?)?"
)
_HUB_SCHEMES = ("huggingface://", "hf://")
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Location:
    """Where the model stands. ``kind``: "folder" or "file" (``path``), "repo" (``repo``), "repo_file" (both)."""

    kind: str
    path: Path | None = None
    repo: str = ""
    file: str = ""
    revision: str | None = None

    @property
    def place(self) -> Path:
        """``path`` of what stands on this machine."""
        if self.path is None:
            raise ValueError(f"{self} is not on this machine")
        return self.path

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else "/".join(filter(None, (self.repo, self.file)))


def locate(model: str, model_file: str, model_path: str) -> Location:
    """``model_file`` if it exists, else ``model`` as a path (absolute or relative to ``model_path``), URL or repo id.

    Raises LoadError for a URL that is not of the Hub and for text that is none of these.
    """
    for candidate in (model_file, model, os.path.join(model_path, model) if model_path else ""):
        if candidate and os.path.exists(candidate):
            path = Path(candidate)
            return _location_of_folder(path) if path.is_dir() else Location("file", path=path)
    return hub_location(model)


def _location_of_folder(path: Path) -> Location:
    """A folder, or the file in it where it is nothing but one file of weights (ComfyUI's ``diffusion_models``)."""
    described = any((path / name).is_file() for name in (INDEX_FILE, MODULAR_INDEX_FILE, _BLOCKS_FILE, "config.json"))
    files = [] if described else weights_in(path)
    return Location("file", path=files[0]) if len(files) == 1 else Location("folder", path=path)


def hub_location(model: str) -> Location:
    """The Hub repo, or file of one, that ``model`` (repo id, huggingface:// or URL) names.
    LoadError for anything else."""
    url = _HUB_URL.fullmatch(model.partition("?")[0])
    if url:
        return Location("repo_file", repo=url["repo"], file=url["file"], revision=url["revision"])
    page = _HUB_PAGE.fullmatch(model.partition("?")[0])
    if page:
        return Location("repo", repo=page["repo"], revision=page["revision"])
    for scheme in _HUB_SCHEMES:
        if model.startswith(scheme):
            return _hub_reference(model, model.removeprefix(scheme))
    if _REPO_ID.fullmatch(model):
        return Location("repo", repo=model)
    if model.startswith(("http://", "https://")):
        raise LoadError(f"Model {model!r} is a URL outside the Hugging Face Hub: download the file and give its path")
    raise LoadError(f"Model {model!r} is neither an existing file or folder nor a Hub repo id (owner/name)")


def _hub_reference(model: str, text: str) -> Location:
    """``owner/name[@revision]`` or ``owner/name/file[@revision]`` behind LocalAI's huggingface:// scheme."""
    text, _, revision = text.partition("@")
    owner, name, *rest = (*text.split("/"), "")[: text.count("/") + 1] if "/" in text else (text, "")
    if not owner or not name:
        raise LoadError(f"Model {model!r} must be huggingface://owner/name or huggingface://owner/name/file")
    file = "/".join(rest)
    return Location("repo_file" if file else "repo", repo=f"{owner}/{name}", file=file, revision=revision or None)


# --- what a folder or file holds ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightFile:
    """One file of weights. ``dtype`` is the safetensors name (F16, BF16, F32 …) of most of its bytes, "" if unknown."""

    component: str
    path: Path
    size: int
    dtype: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """What the model's own files say of it. ``components``: name -> (library, class), null components left out.

    ``configs`` is the folder of its configs where that is not ``path`` (a single file's); ``scheduler_class`` what its
    pipeline class is annotated with, for a model that brings no scheduler config.
    """

    path: Path
    class_name: str = ""
    is_modular: bool = False
    remote_code: bool = False
    components: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[WeightFile, ...] = ()
    configs: Path | None = None
    scheduler_class: str = ""

    @cached_property
    def variants(self) -> frozenset[str]:
        """Variants for which there are weight files, e.g. {"fp16"}."""
        return frozenset(filter(None, (variant_of(weights.path.name) for weights in self.files)))

    @property
    def only_variants(self) -> frozenset[str]:
        """The variants that hold all of a component that has no plain weights, {} where each has plain ones."""
        found: dict[str, set[str]] = {}
        for weights in self.files:
            found.setdefault(weights.component, set()).add(variant_of(weights.path.name))
        lone = [variants for variants in found.values() if "" not in variants]
        return frozenset(set.intersection(*lone)) if lone and self.path.is_dir() else frozenset()

    def chosen_files(self, variant: str | None) -> list[WeightFile]:
        """The files that a load with ``variant`` reads: per component the variant's where it has any,
        else the plain."""
        chosen = []
        for component in dict.fromkeys(weights.component for weights in self.files):
            own = [weights for weights in self.files if weights.component == component]
            wanted = [w for w in own if variant_of(w.path.name) == variant] if variant else []
            plain = wanted or [w for w in own if not variant_of(w.path.name)] or own
            safe = [w for w in plain if w.path.suffix in SAFE_SUFFIXES]
            chosen += safe or plain
        return chosen

    def only(self, names: Collection[str]) -> ModelFacts:
        """The facts without the components that are not among ``names`` (a single file's weights have no component)."""
        components = {name: kind for name, kind in self.components.items() if name in names}
        files = tuple(weights for weights in self.files if weights.component in {"", *names})
        return replace(self, components=components, files=files)

    def config(self, component: str, name: str = "config.json") -> dict[str, Any]:
        """A component's config file, {} where there is none."""
        file = (self.configs or self.path) / component / name
        return read_json(file) if file.is_file() else {}

    @property
    def scheduler_config(self) -> dict[str, Any]:
        known = {"_class_name": self.scheduler_class} if self.scheduler_class else {}
        return self.config("scheduler", "scheduler_config.json") or known

    @property
    def denoiser(self) -> str:
        """Name of the component that denoises, "" where there is none by a usual name."""
        return next((name for name in DENOISERS if name in self.components), "")

    @property
    def is_flow_matching(self) -> bool:
        """Whether the scheduler in the repo is a flow-matching one: such models are trained in bf16, fp16 overflows."""
        config = self.scheduler_config
        return "FlowMatch" in str(config.get("_class_name")) or bool(config.get("use_flow_sigmas"))


def folder_facts(path: Path, subfolder: str = "", brought: bool = False) -> ModelFacts:
    """Facts of a pipeline folder. Raises LoadError for a folder without an index or weights, or with broken files.

    ``brought``: its weights, or some, come from elsewhere.

    A modular pipeline's weights may all be in other repos.
    """
    if subfolder and (os.path.isabs(subfolder) or ".." in Path(subfolder).parts):
        raise LoadError(f"option subfolder:{subfolder} leaves the model: give a folder inside it")
    path = path / subfolder if subfolder else path
    if not path.is_dir():
        raise LoadError(f"option subfolder:{subfolder}: there is no folder {path}")
    facts = indexed_facts(path)
    files = tuple(_weight_files(path, facts.components))
    if (
        not files
        and not facts.is_modular
        and not brought
        and any(not _is_weightless(name) for name in facts.components)
    ):
        raise LoadError(f"{path} has a {INDEX_FILE} but no weights: download the model again, whole")
    return replace(facts, files=files)


def indexed_facts(path: Path) -> ModelFacts:
    """Facts of a folder's index alone, weights or not. Raises LoadError for a folder without one."""
    with _downloaded_again():
        index = read_index(path)
    if index is not None:
        return _indexed_facts(path, index)
    if _has_own_blocks(path):  # nothing but code: what it needs it says itself
        return ModelFacts(path, "ModularPipeline", is_modular=True, remote_code=True)
    raise LoadError(f"{path} is no diffusers pipeline: it has no {INDEX_FILE}. {_what_it_seems(path)}")


def _has_own_blocks(path: Path) -> bool:
    return (path / _BLOCKS_FILE).is_file() and bool(read_json(path / _BLOCKS_FILE).get("auto_map"))


def file_facts(path: Path) -> ModelFacts:
    """Facts of a single-file checkpoint. Raises LoadError for what cannot be a diffusion model's weights."""
    form = headers.check(path, allow_pickle=True)
    if form == headers.GGUF:
        _refuse_language_model(path)
    return ModelFacts(path, files=(weight_file("", path),))


def check_weights(facts: ModelFacts, variant: str | None, allow_pickle: bool, used: Collection[str] = ()) -> None:
    """Raise LoadError for a component without weights, a missing shard, or a pickle where none is allowed.

    Only of the components that are ``used``, where any are named: an index may hold entries that its class ignores.
    Pickled weights can carry code; diffusers unpickles them restricted, yet they are taken only when trusted.
    """
    if used:
        facts = facts.only(used)
    for weights in facts.chosen_files(variant):
        headers.check(weights.path, allow_pickle)
    _check_every_component(facts)
    _check_variants(facts, variant)
    for weights in facts.chosen_files(variant):
        for index in weights.path.parent.glob("*.safetensors.index*.json"):
            if variant_of(index.name) == variant_of(weights.path.name):
                _check_shards(index)


def _check_every_component(facts: ModelFacts) -> None:
    """Raise LoadError for a component of a pipeline's folder whose config, or nothing, is there without its weights."""
    if not facts.index or facts.is_modular or not facts.path.is_dir():
        return
    own = facts.components.keys() & facts.index.keys()  # not what the options bring
    for name in own - {weights.component for weights in facts.files} - {"safety_checker"}:
        folder = facts.path / name
        if not _is_weightless(name) and ((folder / "config.json").is_file() or not folder.is_dir()):
            raise LoadError(f"{folder} holds no weights: download the model again, whole")


def _check_variants(facts: ModelFacts, variant: str | None) -> None:
    """Raise LoadError for a component of a folder that is there neither plain nor in the variant to be loaded."""
    for weights in facts.chosen_files(variant) if facts.index and facts.path.is_dir() else ():
        own = variant_of(weights.path.name)
        if own and own != variant:
            raise LoadError(
                f"{weights.path.parent} holds no plain weights, only the variant {own}, which other components lack: "
                "download the model again, whole, in one variant"
            )


def _check_shards(index: Path) -> None:
    for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
        if not (index.parent / str(shard)).is_file():
            raise LoadError(f"{index} names the shard {shard}, which is missing: download the model again")


def variant_of(file_name: str) -> str:
    """The variant in the name of a weight file or its index ("fp16" in model.fp16-00001-of-00002.safetensors),
    "" if none."""
    stem = re.sub(r"\.safetensors\.index|\.bin\.index|-\d{5}-of-\d{5}", "", file_name.rpartition(".")[0])
    return stem.partition(".")[2]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; LoadError for anything else."""
    with _downloaded_again():
        return json_object(path)


@contextlib.contextmanager
def _downloaded_again() -> Iterator[None]:
    """A file that cannot be read as a LoadError with the way out."""
    try:
        yield
    except ValueError as error:
        raise LoadError(f"{error}: download the model again") from None


def _indexed_facts(path: Path, index: Index) -> ModelFacts:
    if not index.class_name:
        raise LoadError(f"{path / INDEX_FILE} names no pipeline class (_class_name): download the model again")
    # A component from a library of that kind names a Python file inside the repo.
    own_code = (
        index.is_custom
        or any(
            (path / f"{library}.py").is_file() or (path / part / f"{library}.py").is_file()
            for part, (library, _class) in index.components.items()
        )
        or (index.is_modular and _has_own_blocks(path))
    )
    return ModelFacts(path, index.class_name, index.is_modular, own_code, index.components, index.entries)


def _weight_files(path: Path, components: Mapping[str, tuple[str, str]]) -> Iterator[WeightFile]:
    return (weight_file(component, file) for component in components for file in weights_in(path / component))


def weights_in(folder: Path) -> list[Path]:
    """The files of weights in a folder: pickles only where there is nothing safe, in whatever variant."""
    every = sorted(folder.glob("[!.]*")) if folder.is_dir() else []  # macOS leaves ._<name> beside a file
    safe = [file for file in every if file.suffix in SAFE_SUFFIXES]
    return safe or [file for file in every if file.suffix in PICKLE_SUFFIXES and file.name != "training_args.bin"]


def check_intact(path: Path, allow_pickle: bool) -> None:
    """Raise LoadError for an adapter's or component's weight file that is empty, broken, or a pickle nobody trusts."""
    check_weights(ModelFacts(path, files=(weight_file("", path),)), None, allow_pickle)


def _is_weightless(component: str) -> bool:
    return component.startswith(("scheduler", "tokenizer", "feature_extractor", "processor", "image_processor"))


def weight_file(component: str, path: Path) -> WeightFile:
    """Size and dtype of one file of weights. LoadError for an empty or broken one."""
    form = headers.check(path, allow_pickle=True)
    dtype = headers.read(path).main_dtype if form == headers.SAFETENSORS else ""
    return WeightFile(component, path, path.stat().st_size, dtype)


def _what_it_seems(path: Path) -> str:
    """One sentence on a folder that is no pipeline."""
    if (path / "config.json").is_file():
        config = read_json(path / "config.json")
        kind = config.get("_class_name") or ", ".join(config.get("architectures") or ()) or config.get("model_type")
        return f"Its config.json describes a {kind}, not a pipeline."
    weights = weights_in(path)
    if len(weights) > 1:
        named = ", ".join(file.name for file in weights[:5])
        return f"It holds {named}: name one, e.g. model: {path.name}/{weights[0].name}"
    files = [file.name for file in sorted(path.iterdir())[:5]]
    return f"It holds {', '.join(files)}." if files else "It is empty."


# --- GGUF --------------------------------------------------------------------------------------------------------

# Sizes in bytes of GGUF's scalar value types; 8 is a string, 9 an array (GGUF specification, "File Structure").
_GGUF_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def _refuse_language_model(path: Path) -> None:
    """Raise LoadError for a GGUF that is broken or a language model:
    only those carry a tokenizer or a context length."""
    try:
        keys = list(gguf_keys(path))
    except (OSError, ValueError, struct.error, UnicodeDecodeError) as error:
        raise LoadError(f"{path} is no intact GGUF file ({error}): download it again") from None
    telling = next((key for key in keys if key.startswith("tokenizer.") or key.endswith(".context_length")), None)
    if telling:
        raise LoadError(f"{path} is a language model (its GGUF metadata has {telling!r}): serve it with llama-cpp")


def gguf_keys(path: Path, limit: int = 64) -> Iterator[str]:
    """Metadata keys in file order, up to the first tokenizer key (whose arrays are long) or ``limit``.

    The gguf package reads every value of every array, seconds for a language model's vocabulary; the core probes
    backends in turn and waits, so only the keys are read here.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        _version, _tensors, count = struct.unpack("<IQQ", stream.read(20))
        for _ in range(min(count, limit)):
            key = _gguf_string(stream)
            yield key
            if key.startswith("tokenizer."):
                return
            _skip_gguf_value(stream, struct.unpack("<I", stream.read(4))[0])


def _gguf_string(stream: BinaryIO) -> str:
    length = struct.unpack("<Q", stream.read(8))[0]
    if length > 1 << 16:
        raise ValueError(f"a metadata key of {length} bytes")
    return stream.read(length).decode()


def _skip_gguf_value(stream: BinaryIO, kind: int) -> None:
    if kind in _GGUF_SCALARS:
        stream.seek(_GGUF_SCALARS[kind], os.SEEK_CUR)
    elif kind == 8:
        stream.seek(struct.unpack("<Q", stream.read(8))[0], os.SEEK_CUR)
    elif kind == 9:
        inner, count = struct.unpack("<IQ", stream.read(12))
        if inner in _GGUF_SCALARS:
            stream.seek(_GGUF_SCALARS[inner] * count, os.SEEK_CUR)
            return
        for _ in range(count):
            _skip_gguf_value(stream, inner)
    else:
        raise ValueError(f"an unknown value type {kind}")
