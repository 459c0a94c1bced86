# SPDX-License-Identifier: MIT
"""``show`` and ``yaml``: what a class or a model takes and gives, and the YAML that serves it in LocalAI."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from localai_diffusers.cli import check, model_yaml
from localai_diffusers.cli.terminal import Fault, columns, say

# What comes out -> LocalAI's use cases, by which its web UI lists a model (core/config/model_config.go).
_USECASES: Mapping[str, list[str]] = {
    "image": ["image"],
    "video": ["video"],
    "audio": ["sound_generation"],
    "3d": ["3d"],
    "prediction": ["depth"],
}

# What comes out -> the word of known_output_modalities; LocalAI has none for a mesh.
_MODALITIES: Mapping[str, str] = {"image": "image", "prediction": "image", "video": "video", "audio": "audio"}


def add(commands: Any) -> None:
    parser = commands.add_parser("show", help="what a class or a model takes and gives, and the options of its call")
    parser.add_argument("name", metavar="CLASS_OR_MODEL")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    writer = commands.add_parser("yaml", help="a YAML for LocalAI that serves a folder, a file or a Hub repo")
    writer.add_argument("model")
    writer.set_defaults(run=run_yaml)


def run(options: argparse.Namespace) -> int:
    from localai_diffusers import logs
    from localai_diffusers.cli import pipelines

    logs.configure("ERROR")
    name = class_of(options.name)
    row, arguments = pipelines.row(name), dict(_arguments(name))
    if options.json:
        say(json.dumps({**row.as_dict(), "arguments": arguments}, indent=2, default=str))
        return 0
    facts = {
        "class": row.name,
        "tasks": ", ".join(row.tasks),
        "takes": ", ".join(row.inputs),
        "makes": row.output,
        "served": ", ".join(row.rpcs) or f"not: {row.reason}",
        "needs": ", ".join(row.needs_options),
    }
    say(columns([(key, value) for key, value in facts.items() if value]))
    say("\nevery request takes these from options: of the YAML, with the class's own default")
    say(columns([(f"  {key}", value) for key, value in arguments.items()]))
    return 0


def class_of(name: str) -> str:
    """The class of that name in any case, else that of the model. Raises Fault where it is neither."""
    import diffusers_dynamic_loader as loader

    every = {known.lower(): known for known in loader.get_available_pipelines()}
    if name.lower() in every:
        return every[name.lower()]
    path = Path(name).expanduser()
    if "/" not in name and not path.exists():
        from localai_diffusers.discovery.spelling import did_you_mean

        raise Fault(
            f"{name} is no class of diffusers, and no model is there. {did_you_mean(name, every.values())}".rstrip()
        )
    return _class_of_model(model_yaml.read(name))


def _class_of_model(model: model_yaml.NamedModel) -> str:
    """By the load's own rules where the files are here, else what the Hub says of the repo."""
    import diffusers_dynamic_loader as loader

    report = check.report_of(model)
    if report.prepared is not None:
        return str(report.prepared.class_name)
    if report.faults:
        raise Fault("; ".join(report.faults))
    try:
        found = loader.inspect_model(model.name.removeprefix("huggingface://")).class_name
    except ValueError as error:
        raise Fault(str(error)) from None
    if not found:
        raise Fault(f"{model.name} does not say which class it is of")
    return found


def _arguments(name: str) -> Iterator[tuple[str, str]]:
    """The words that options: may hold for the class's call, with their defaults; media and texts come in a request."""
    import diffusers_dynamic_loader as loader
    from localai_diffusers.pipeline.signatures import EMPTY, parameters_of, takes_media

    parameters = parameters_of(loader.get_pipeline_registry()[name])
    for key, parameter in parameters.items():
        plain = parameter.default is EMPTY or parameter.default is None or isinstance(parameter.default, _PLAIN)
        if plain and not takes_media(key, parameters) and not key.endswith(_OURS):
            yield key, "" if parameter.default in (EMPTY, None) else json.dumps(parameter.default)


_PLAIN = (bool, int, float, str, list, tuple)
# What the backend itself sets.
_OURS = (
    "callback",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
    "callback_steps",
    "return_dict",
    "output_type",
    "generator",
    "latents",
    "embeds",
    "embeds_mask",
    "prompt",
    "prompt_2",
    "prompt_3",
)


# --- a YAML ------------------------------------------------------------------------------------------------------


def run_yaml(options: argparse.Namespace) -> int:
    from localai_diffusers import logs

    logs.configure("ERROR")
    say(yaml_of(options.model).rstrip())
    return 0


def _modalities(name: str) -> dict[str, list[str]]:
    """What comes in and goes out by LocalAI's words, for a class that takes more than text: without them no client
    offers to attach a picture."""
    from localai_diffusers.cli import pipelines

    row = pipelines.row(name)
    taken = dict.fromkeys(_modality(argument) for argument in row.inputs)
    if taken.keys() <= {"text"} or row.output not in _MODALITIES:
        return {}
    return {"known_input_modalities": sorted(taken), "known_output_modalities": [_MODALITIES[row.output]]}


def _modality(argument: str) -> str:
    if "prompt" in argument or argument == "lyrics":
        return "text"
    return next((word for word in ("video", "audio") if word in argument), "image")


def yaml_of(model: str) -> str:
    """The YAML as text: the class, and the use case without which the web UI does not list the model."""
    import yaml

    import diffusers_dynamic_loader as loader

    named = model_yaml.read(model)
    name = _class_of_model(named)
    path = named.fields.get("ModelFile", "")
    config: dict[str, Any] = {
        "name": Path(path or named.name).name.partition(".safetensors")[0].lower(),
        "backend": "diffusers",
        "parameters": {"model": path or named.name},
        "diffusers": {"pipeline_type": name},
        "known_usecases": _USECASES.get(loader.pipeline_traits(name).kind, ["image"]),
        **_modalities(name),
    }
    return str(yaml.safe_dump(config, sort_keys=False))
