# SPDX-License-Identifier: MIT
"""``check``: what a model's YAML would load, and everything that is wrong with it, without loading a weight.

The rules are the load's own: its first half, which checks all that can be checked. To see every fault and not the first
alone, the keys that one is about are left out and the rest is tried again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localai_diffusers.cli import environment, model_yaml, server
from localai_diffusers.cli.terminal import FAILED, say
from localai_diffusers.errors import BackendError, one_line

_MODEL = ("Model", "ModelFile", "ModelPath")
# Keys of which a part alone means nothing.
_TOGETHER = {"LoraScales": "LoraAdapters", "LoraScale": "LoraAdapter", "CLIPSubfolder": "CLIPModel"}


def add(commands: Any) -> None:
    parser = commands.add_parser("check", help="what a YAML would load, and all that is wrong with it; loads nothing")
    parser.add_argument("models", nargs="+", metavar="MODEL_OR_YAML")
    parser.add_argument(
        "--download", action="store_true", help="fetch what is missing of a Hub repo and check it whole"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """1 if any of the models has a fault."""
    from localai_diffusers import logs

    logs.configure("ERROR")
    reports = [(name, report_of(model_yaml.read(name), options.download)) for name in options.models]
    for name, report in reports:
        say("\n".join((name, *(f"  {line}" for line in report.lines()))))
    return FAILED if any(report.faults for _, report in reports) else 0


@dataclass(frozen=True)
class Report:
    """``prepared``: the load's first half, where that went well; ``faults`` and ``notes`` are sentences."""

    prepared: Any = None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        if self.prepared is not None:
            where = self.prepared.where
            offload = f", offload {where.offload}" if where.offload != "none" else ""
            yield f"class    {self.prepared.class_name}"
            yield f"device   {where.device}, {where.dtype}{offload}"
            yield f"weights  {_size(self.prepared.weight_bytes)}; free: {_free(where.device)}"
        yield from (f"note: {note}" for note in dict.fromkeys(self.notes))
        yield from (f"error: {fault}" for fault in self.faults)
        yield "faulty" if self.faults else "fine"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _free(device: str) -> str:
    from localai_diffusers.loading.placing import devices

    free = devices.free_memory(device)
    return _size(environment.free_host_memory() if free is None else free)


def report_of(model: model_yaml.NamedModel, download: bool = False) -> Report:
    """The report of a named model. A Hub repo that is not on this machine is judged without its files, save with
    ``download``."""
    fields = dict(model.fields)
    if not model.name:
        return Report(faults=model.faults, notes=model.notes)
    attempt, notes = _whole(download), model.notes
    bare = {name: fields[name] for name in (*_MODEL, "PipelineType", "TrustRemoteCode") if name in fields}
    if not model.is_there:
        attempt = _without_files
    elif not download and "ModelFile" not in fields and attempt(bare)[0] is None:
        attempt = _without_files
        notes += ("not whole on this machine: only what needs none of its files is checked (--download fetches them)",)
    prepared, faults = _all_faults(fields, attempt)
    told = prepared.notes if prepared is not None else ()
    if not isinstance(prepared, _Nothing):
        return Report(prepared, (*model.faults, *faults), (*notes, *told))
    return Report(None, (*model.faults, *faults), notes)


class _Nothing:
    """What is prepared where no files were looked at."""

    notes = ()


# What the fields of ModelOptions would load, or the fault that comes first.
Attempt = Callable[[Mapping[str, Any]], tuple[Any, str]]


def _whole(download: bool) -> Attempt:
    from dataclasses import replace

    from localai_diffusers.loading import pipelines
    from localai_diffusers.settings import Settings
    from localai_diffusers.work.jobs import Job

    settings = Settings.from_environ()

    def attempt(fields: Mapping[str, Any]) -> tuple[Any, str]:
        def prepare() -> Any:
            spec = _spec(fields)
            if not download:
                spec = replace(spec, options=replace(spec.options, local_files_only=True))
            pipelines.refuse_early(spec)
            return pipelines.prepare(spec, settings, Job(lambda _job: None, "check"))

        return _told(prepare)

    return attempt


def _without_files(fields: Mapping[str, Any]) -> tuple[Any, str]:
    """The names and the device: what can be judged of a model that is not here."""
    import diffusers_dynamic_loader as loader
    from localai_diffusers.checkpoint import artifacts
    from localai_diffusers.loading import pipeline_class, schedulers
    from localai_diffusers.loading.placing import devices
    from localai_diffusers.settings import Settings

    def look() -> Any:
        spec = _spec(fields)
        named = spec.pipeline_type
        if named and not named.endswith("Model") and not pipeline_class.is_class_name(named):
            loader.resolve_pipeline_type(named)
        if spec.scheduler:
            schedulers.parse_name(spec.scheduler)
        devices.choose_device(spec, Settings.from_environ(), lambda: 0, [])
        for field, names in (("LoraAdapter", [name for name, _ in spec.loras]), ("ControlNet", spec.controlnets)):
            for name in names:
                artifacts.find(spec, name, field)
        return _Nothing()

    return _told(look)


def _spec(fields: Mapping[str, Any]) -> Any:
    from localai_diffusers.wire.load_spec import from_model_options

    message = server.messages().ModelOptions
    return from_model_options(message(**{name: fields[name] for name in fields if name in server.known(message)}))


def _told(work: Callable[[], Any]) -> tuple[Any, str]:
    try:
        return work(), ""
    except (BackendError, ValueError) as error:  # a name that nothing has is a ValueError of discovery
        return None, one_line(error)


def _all_faults(fields: Mapping[str, Any], attempt: Attempt) -> tuple[Any, list[str]]:
    """What is prepared of those fields that are without fault (None if nothing can be), and every fault."""
    faults: list[str] = []
    prepared, fault = attempt(fields)
    while prepared is None:
        faults.append(fault)
        tried = [(rest, *attempt(rest)) for rest in _each_left_out(fields)]
        better = [(rest, found, said) for rest, found, said in tried if said not in faults]
        if not better:
            return None, faults
        # That which can be loaded without one of its keys tells the most.
        fields, prepared, fault = min(better, key=lambda one: one[1] is None)
    return prepared, faults


def _each_left_out(fields: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The fields without one of them each, of the options without one of those."""
    rest = []
    for name in fields.keys() - {*_MODEL, "Options", *_TOGETHER}:
        gone = {name, *(part for part, whole in _TOGETHER.items() if whole == name)}
        rest.append({key: value for key, value in fields.items() if key not in gone})
    options = list(fields.get("Options", ()))
    rest += [{**fields, "Options": options[:at] + options[at + 1 :]} for at in range(len(options))]
    return rest
