# SPDX-License-Identifier: MIT
"""Tiny random checkpoints of many diffusers pipelines, built on the spot: nothing is downloaded.

`checkpoint("FluxPipeline")` returns a folder that `DiffusionPipeline.from_pretrained` loads and that runs on
a CPU in about a second. The weights are random but seeded, so the same versions of the libraries give the
same files.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

from . import audio, image, image_dit, image_other, image_recent, image_stages, other, video, video_recent
from .entry import Entry

ENTRIES: dict[str, Entry] = {
    **image.ENTRIES,
    **image_dit.ENTRIES,
    **image_stages.ENTRIES,
    **image_recent.ENTRIES,
    **image_other.ENTRIES,
    **video.ENTRIES,
    **video_recent.ENTRIES,
    **audio.ENTRIES,
    **other.ENTRIES,
}
LIBRARIES = ("diffusers", "transformers", "torch", "tokenizers", "safetensors")


@functools.cache
def root() -> Path:
    """Where checkpoints lie: LOCALAI_DIFFUSERS_ZOO, else a temporary folder; a part of it named after the
    libraries' versions and the zoo's own source, so that a change of either builds anew."""
    base = os.environ.get("LOCALAI_DIFFUSERS_ZOO") or os.path.join(tempfile.gettempdir(), "localai-diffusers-zoo")
    digest = hashlib.sha256(" ".join(importlib.metadata.version(name) for name in LIBRARIES).encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return Path(base) / digest.hexdigest()[:16]


def checkpoint(name: str) -> Path:
    """The folder of the zoo's checkpoint `name` (a key of ENTRIES), built at the first call on this machine.

    Built beside its place and renamed, so that parallel processes never see half a folder. Read it, don't
    change it: other tests use the same one. Raises KeyError for an unknown name.
    """
    entry, target = ENTRIES[name], root() / name
    if target.is_dir():
        return target
    from .kit import as_published, silent

    silent()
    root().mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root()))
    entry.build().save_pretrained(building)
    as_published(building)
    try:
        building.rename(target)
    except OSError:  # another process was quicker: its folder is as good
        shutil.rmtree(building)
    return target
