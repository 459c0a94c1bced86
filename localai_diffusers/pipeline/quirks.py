# SPDX-License-Identifier: MIT
"""What single models need and no rule finds: one row each, so that the flow holds no ``if`` for a model.

A row (:class:`Quirk`) is a name, a predicate over a :class:`Subject` (the class, its signature, its components' classes
and configs), an effect, the reason, a class that it is true of, and when it may go. Rows of one kind of effect stand in
one table; who has a use for the kind asks :func:`effects_of` with the table and the subject:

- ``CALLS``: (the call's arguments, subject) -> a :class:`Change` of them, None for none; in this order, at the end.
- ``FORMS``: by parameter: (the pictures of a request) -> the one value in which it takes them, however many.
- ``FIELDS``: (a sound request's fields, subject) -> the fields that this model means by them.
- ``GUIDANCE``: fields of the profile's GuidanceStyle that are otherwise.
- ``TILES``: subject -> the side in source pixels of the tiles that an upscaler takes.
- ``MULTIPLES``: subject -> what width and height must be multiples of, too, in pixels.
- ``SIDES``: (width, height, subject) -> the nearest ones that the model makes.
- ``FRAMES``: (frames asked for, those that the VAE's factor gives, subject) -> those that the model makes.
- ``RATES``: frames a second of the model's videos, where neither its code nor its example tells.
- ``NUMBERS``: in which dtype a component's class computes (:class:`Numbers`); ask :func:`numbers_of` before the load.
- ``CASTS``: (dtypes by component, subject) -> those that the pipeline's own code can work with; before the load.
- ``GUARDS``: what a constructor is told where the user switches the safety checker off.

A new kind is a new table, named in ``TABLES``. A new row needs a test of its name in tests/pipeline/test_quirks.py.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from localai_diffusers.pipeline.kept import kept
from localai_diffusers.pipeline.signatures import Parameters, image_parameters, parameters_of
from localai_diffusers.pipeline.sizes import config_value, frame_multiple, size_multiple

E = TypeVar("E")
Arguments = Mapping[str, Any]
Dtypes = Mapping[str, str]


@dataclass(frozen=True)
class Subject:
    """What a predicate and an effect may ask about: a pipeline class, its components' class names, and the pipeline
    where it is loaded already."""

    cls: type
    components: Mapping[str, str] = field(default_factory=dict)
    pipeline: Any = None

    @property
    def parameters(self) -> Parameters:
        """What its call takes."""
        return parameters_of(self.cls)

    def config(self, component: str, entry: str) -> Any:
        """An entry of a component's config ("": the pipeline's), None where either is not there, or nothing is
        loaded."""
        return config_value(getattr(self.pipeline, component, None) if component else self.pipeline, entry)


def subject_of(pipeline: Any) -> Subject:
    """The subject that a loaded pipeline is."""
    parts = getattr(pipeline, "components", {})
    names = {name: type(part).__name__ for name, part in parts.items() if part is not None}
    return Subject(type(pipeline), names, pipeline)


@dataclass(frozen=True)
class Quirk(Generic[E]):
    """A row. ``applies`` is asked once a model; ``example`` is a class of tests/zoo that it is true of."""

    name: str
    applies: Callable[[Subject], bool]
    effect: E
    reason: str
    example: str
    until: str


def effects_of(table: tuple[Quirk[E], ...], subject: Subject) -> tuple[E, ...]:
    """The effects of the rows that are true of ``subject``, in the table's order."""
    return tuple(row.effect for row in table if row.applies(subject))


# --- predicates ----------------------------------------------------------------------------------------------------


def takes(*names: str) -> Callable[[Subject], bool]:
    """Whether the call has all these parameters."""
    return lambda subject: subject.parameters.keys() >= set(names)


def has(*classes: str) -> Callable[[Subject], bool]:
    """Whether a component is of one of these classes."""
    return lambda subject: not set(classes).isdisjoint(subject.components.values())


@kept(64)
def source_of(code: Any) -> str:
    """The source of a class or function, "" where there is none to read."""
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        return ""


# --- changes of a call ---------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """Arguments that replace those of a call, and what to tell the user of it, "" for nothing."""

    arguments: Arguments
    note: str = ""


CallEffect = Callable[[Arguments, Subject], Change | None]


def _two_steps(arguments: Arguments, subject: Subject) -> Change | None:
    if arguments.get("num_inference_steps") != 1:
        return None
    return Change({"num_inference_steps": 2}, "step=1 is too few for this model's scheduler: 2 are taken")


def _two_steps_of_parts(arguments: Arguments, subject: Subject) -> Change | None:
    """``prior_num_inference_steps`` are those of the component ``prior_scheduler``."""
    prefixes = [name.removesuffix("scheduler") for name, kind in subject.components.items() if kind == _UNCLIP]
    steps = {f"{prefix}num_inference_steps" for prefix in prefixes}
    few = {name: 2 for name in sorted(steps) if arguments.get(name) == 1}
    return Change(few, f"{', '.join(few)} of 1 is too few for the scheduler: 2 are taken") if few else None


def _own_size(arguments: Arguments, subject: Subject) -> Change | None:
    sides = ("width", "height")
    if all(arguments.get(name) for name in sides) or any(
        arguments.get(name) for name in image_parameters(subject.parameters)
    ):
        return None
    side = subject.pipeline.default_sample_size * subject.pipeline.vae_scale_factor
    return Change(
        {name: arguments.get(name) or side for name in sides},
        f"no size was asked for: the model's own, {side}x{side}, is taken",
    )


def _at_least(least: Mapping[str, int], arguments: Arguments) -> Change | None:
    """The numbers among ``least`` that are asked for and too small, raised to it."""
    few = {name: most for name, most in least.items() if 0 < (arguments.get(name) or 0) < most}
    said = ", ".join(f"{name}={arguments[name]}" for name in few)
    return Change(few, f"{said} is too small for this model: {min(few.values())} is taken") if few else None


def _two_latents(arguments: Arguments, subject: Subject) -> Change | None:
    return _at_least(dict.fromkeys(("width", "height"), 2 * size_multiple(subject.pipeline)), arguments)


def _second_latent_frame(arguments: Arguments, subject: Subject) -> Change | None:
    return _at_least({"num_frames": subject.pipeline.vae_scale_factor_temporal + 1}, arguments)


def _size_of_places(arguments: Arguments, subject: Subject) -> Change | None:
    side = subject.config("unet", "sample_size") * subject.pipeline.vae_scale_factor
    other = {name: side for name in ("width", "height") if arguments.get(name) not in (None, side)}
    return Change(other, f"this model makes {side}x{side} alone: that is taken") if other else None


def _moments_within_steps(arguments: Arguments, subject: Subject) -> Change | None:
    """Unset moments at their share of the steps; as many steps as a moment that is set needs."""
    said = {name: arguments.get(name, subject.parameters[name].default) for name in ("num_inference_steps", "t0", "t1")}
    every, (steps, t0, t1) = subject.parameters["num_inference_steps"].default, said.values()
    if t1 < steps:
        return None
    taken = max(2, steps, t1 + 1 if "t1" in arguments else 0)
    note = f"step={steps} is too few for this pipeline: {taken} are taken" if taken != steps else ""
    last = t1 if "t1" in arguments else min(taken - 1, t1 * taken // every)
    first = t0 if "t0" in arguments else min(last - 1, t0 * taken // every)
    return Change({"num_inference_steps": taken, "t0": max(0, first), "t1": max(1, last)}, note)


def _fewer_tiles(arguments: Arguments, subject: Subject) -> Change | None:
    """As many tiles a side as are each wider than their overlap, in latents."""
    said = {name: arguments.get(name, known.default) for name, known in subject.parameters.items()}
    overlap = said["decode_overlap"]
    fewer: dict[str, int] = {}
    for side, name in (("width", "decode_horizontal_tiles"), ("height", "decode_vertical_tiles")):
        latents = said[side] // subject.pipeline.vae_spatial_compression_ratio
        # (latents + (tiles - 1) * overlap) // tiles is a tile's side in the pipeline's vae_decode_tiled
        most = max(1, latents - overlap)
        fewer |= {name: most} if said[name] > most else {}
    return Change(fewer) if fewer else None


def _in_lists(arguments: Arguments, subject: Subject) -> Change | None:
    given = {name: arguments.get(name) for name in image_parameters(subject.parameters)}
    single = {name: [value] for name, value in given.items() if value is not None and not isinstance(value, list)}
    return Change(single) if single else None


def _area(arguments: Arguments, subject: Subject) -> Change | None:
    width, height = arguments.get("width"), arguments.get("height")
    return Change({"max_area": width * height}) if "max_area" not in arguments and width and height else None


def _stretched_schedule(arguments: Arguments, subject: Subject) -> Change | None:
    """No schedule beside a scale that is asked for, else the default one stretched to the number of steps."""
    default, steps = subject.parameters[_SCHEDULE].default, arguments.get("num_inference_steps")
    if _SCHEDULE in arguments:
        return None
    if "guidance_scale" in arguments:
        return Change({_SCHEDULE: None})
    if not isinstance(default, (list, tuple)) or not isinstance(steps, int):
        return None
    return Change({_SCHEDULE: [default[step * len(default) // steps] for step in range(steps)]})


def _edit_instruction(arguments: Arguments, subject: Subject) -> Change | None:
    prompt = arguments.get("prompt")
    if not isinstance(prompt, str) or "edit_instruction" in prompt:
        return None
    form = json.dumps({"edit_instruction": prompt})
    return Change({"prompt": form}, "the prompt is put into the JSON that this pipeline takes")


def _without_intermediate_timestep(arguments: Arguments, subject: Subject) -> Change | None:
    name, steps = "intermediate_timesteps", arguments.get("num_inference_steps", 2)
    return None if steps == 2 or name in arguments else Change({name: None})


def _empty_negative_prompt(arguments: Arguments, subject: Subject) -> Change | None:
    given = any(arguments.get(name) is not None for name in ("negative_prompt", "negative_prompt_embeds"))
    return None if given else Change({"negative_prompt": ""})


def _tagged(arguments: Arguments, subject: Subject) -> Change | None:
    """The prompt with a tag for each picture that it does not speak of."""
    pictures, prompt = arguments.get("input_images") or [], arguments.get("prompt")
    count = len(pictures) if isinstance(pictures, list) else 1
    tags = [f"<img><|image_{number + 1}|></img>" for number in range(count)]
    missing = [tag for tag in tags if isinstance(prompt, str) and tag not in prompt]
    return Change({"prompt": " ".join([*missing, str(prompt)])}) if missing else None


def _black_is_repainted(arguments: Arguments, subject: Subject) -> Change | None:
    from PIL import ImageChops

    mask: Any = arguments.get("mask_image")
    return Change({"mask_image": ImageChops.invert(mask)}) if hasattr(mask, "getextrema") else None


def _transparent(arguments: Arguments, subject: Subject) -> Change | None:
    pictures = {name: arguments.get(name) for name in image_parameters(subject.parameters)}
    return Change({name: _with_alpha(value) for name, value in pictures.items() if value is not None})


def _with_alpha(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_alpha(part) for part in value]
    from localai_diffusers.media.images import is_picture

    return value.convert("RGBA") if is_picture(value) else value


def _mask_in_levels(arguments: Arguments, subject: Subject) -> Change | None:
    mask = arguments.get("mask_video")
    return None if mask is None else Change({"mask_video": mask * 255.0})


def _knows_no_bin(subject: Subject) -> bool:
    """Whether the call moves sizes to a family's published ones and knows none for this model: its code names the
    sample sizes that it does know, or its module has a table of them."""
    if _BINNING not in subject.parameters:
        return False
    call = inspect.unwrap(subject.cls.__call__)
    table = getattr(call, "__globals__", {}).get("ASPECT_RATIO_BINS")
    if table is not None:
        return getattr(subject.pipeline, "default_sample_size", None) not in table
    known = re.findall(r"config\.sample_size == (\d+)", source_of(subject.cls))
    return bool(known) and str(subject.config("transformer", "sample_size")) not in known


def _returns_one(subject: Subject) -> bool:
    """Whether the scheduler's step returns the sample alone, not the predicted original beside it."""
    step = getattr(type(getattr(subject.pipeline, "scheduler", None)), "step", None)
    return bool(re.search(r"return \(\w+,\)", source_of(step)))


_CAST = re.compile(r"self\.(\w+)\.encode\(\w+\.bfloat16\(\)\)")
_BINNING, _SCHEDULE, _UNCLIP = "use_resolution_binning", "guidance_schedule", "UnCLIPScheduler"
_FIXED, _PAD = "diffusers does so itself", "spatial_padding_mode"

CALLS: tuple[Quirk[CallEffect], ...] = (
    Quirk(
        "timestep_between_two_steps_of_sana_sprint",
        takes("intermediate_timesteps"),
        _without_intermediate_timestep,
        "The default is the one timestep between two steps, and is refused with any other number of them.",
        "SanaSprintPipeline",
        "the default is None",
    ),
    Quirk(
        "two_steps_for_a_terminal_shift",
        lambda subject: bool(subject.config("scheduler", "shift_terminal")),
        _two_steps,
        "The scheduler stretches its steps to a last value, and divides by zero for one: the picture is black.",
        "QwenImagePipeline",
        "FlowMatchEulerDiscreteScheduler takes one step with shift_terminal",
    ),
    Quirk(
        "two_steps_for_a_linear_quadratic_schedule",
        lambda subject: (
            "linear_quadratic_schedule" in source_of(subject.cls) and has("MochiTransformer3DModel")(subject)
        ),
        _two_steps,
        "Mochi's schedule is half linear and half quadratic: half of one step is none, by which it divides.",
        "MochiPipeline",
        "diffusers' linear_quadratic_schedule takes 1",
    ),
    Quirk(
        "two_steps_without_a_distilled_scheduler",
        lambda subject: "num_inference_steps == 1" in source_of(subject.cls) and _returns_one(subject),
        _two_steps,
        "One step means PixArt's distilled form, which reads the second value that its scheduler returns.",
        "PixArtAlphaPipeline",
        "the pipeline looks at its scheduler",
    ),
    Quirk(
        "two_steps_of_unclip",
        has(_UNCLIP),
        _two_steps_of_parts,
        "UnCLIPScheduler divides by the number of steps less one.",
        "UnCLIPPipeline",
        "UnCLIPScheduler.set_timesteps takes 1",
    ),
    Quirk(
        "moments_of_text_to_video_zero",
        takes("t0", "t1", "num_inference_steps"),
        _moments_within_steps,
        "The motion begins and ends t1 and t0 steps before the last, by defaults for fifty steps alone.",
        "TextToVideoZeroPipeline",
        "never: it is how the method works",
    ),
    Quirk(
        "own_size_of_glm_image",
        lambda subject: takes("width", "height")(subject) and has("GlmImageTransformer2DModel")(subject),
        _own_size,
        "The call has None for a size and computes with it.",
        "GlmImagePipeline",
        f"{_FIXED} by default_sample_size",
    ),
    Quirk(
        "pictures_of_glm_image_in_lists",
        has("GlmImageTransformer2DModel"),
        _in_lists,
        "The annotation admits one picture, the code takes its length.",
        "GlmImagePipeline",
        "_validate_and_normalize_images takes a picture",
    ),
    Quirk(
        "two_latents_for_reflection",
        lambda subject: (
            "reflect" in (subject.config("vae", "decoder_spatial_padding_mode"), subject.config("vae", _PAD))
            and "latent_upsampler" not in subject.components  # which decodes twice as many
        ),
        _two_latents,
        "The decoder pads its latents with their reflection: one alone reflects nothing, after all the steps.",
        "LTX2Pipeline",
        "never: it is what the model is made of",
    ),
    Quirk(
        "tiles_wider_than_their_overlap",
        takes("decode_horizontal_tiles", "decode_vertical_tiles", "decode_overlap", "width", "height"),
        _fewer_tiles,
        "A small video has not latents enough for the default of 4 x 4 tiles, and fails after all the steps.",
        "LTXI2VLongMultiPromptPipeline",
        "vae_decode_tiled takes fewer tiles itself",
    ),
    Quirk(
        "second_latent_frame_of_kandinsky",
        lambda subject: hasattr(subject.cls, "normalize_first_frame"),
        _second_latent_frame,
        "The call evens out its first frames by later ones; without those it takes a tuple for a tensor at its end.",
        "Kandinsky5I2VPipeline",
        "normalize_first_frame returns the latents alone",
    ),
    Quirk(
        "size_of_unidiffuser",
        has("UniDiffuserModel"),
        _size_of_places,
        "The transformer has a place for each latent of one size.",
        "UniDiffuserPipeline",
        "never: the model was trained so",
    ),
    Quirk(
        "area_of_the_size",
        takes("width", "height", "max_area"),
        _area,
        "Kontext scales every size to an area of its own, a megapixel, unless it is told another.",
        "FluxKontextPipeline",
        "never: it is what the model is made for",
    ),
    Quirk(
        "schedule_of_guidance",
        takes(_SCHEDULE),
        _stretched_schedule,
        "Ideogram 4 takes a scale or a schedule of one for each step, whose default is of one length.",
        "Ideogram4Pipeline",
        _FIXED,
    ),
    Quirk(
        "no_bin_for_an_unknown_sample_size",
        _knows_no_bin,
        lambda arguments, subject: None if _BINNING in arguments else Change({_BINNING: False}),
        "The call moves a size to the nearest of its family's, and refuses other sample sizes than the published.",
        "PixArtAlphaPipeline",
        "the pipelines leave sizes alone where they know no table",
    ),
    Quirk(
        "edit_instruction_of_bria_fibo",
        lambda subject: "is_valid_edit_json" in source_of(subject.cls),
        _edit_instruction,
        "The prompt must be JSON; documented is an object of the one key edit_instruction.",
        "BriaFiboEditPipeline",
        "the pipeline takes a plain text",
    ),
    Quirk(
        "negative_prompt_of_easyanimate",
        has("EasyAnimateTransformer3DModel"),
        _empty_negative_prompt,
        "encode_prompt iterates over the negative prompt, whose default is None.",
        "EasyAnimatePipeline",
        "encode_prompt takes None",
    ),
    Quirk(
        "attention_by_size",
        takes("attn_res"),
        lambda arguments, subject: None if "attn_res" in arguments else Change({"attn_res": None}),
        "The default fits the model's own size alone; None lets the pipeline count it from the size.",
        "StableDiffusionAttendAndExcitePipeline",
        "the default is None",
    ),
    Quirk(
        "depth_as_array",
        lambda subject: "LDM3D" in subject.cls.__name__,
        lambda arguments, subject: None if "output_type" in arguments else Change({"output_type": "np"}),
        "VaeImageProcessorLDM3D of diffusers 0.42.1 makes pictures of depth in a mode that Pillow 13 refuses.",
        "StableDiffusionLDM3DPipeline",
        "it asks Pillow for no mode",
    ),
    Quirk(
        "mask_of_repaint",
        lambda subject: "The mask_image where 0.0 define" in (subject.cls.__call__.__doc__ or ""),
        _black_is_repainted,
        "In RePaint's mask 0 is what is made anew, everywhere else white is.",
        "RePaintPipeline",
        "never: the class is deprecated",
    ),
    Quirk(
        "transparency_for_an_autoencoder_of_four_channels",
        lambda subject: 4 in (subject.config("vae", "input_channels"), subject.config("vae", "in_channels")),
        _transparent,
        "Qwen-Image-Layered's autoencoder reads colors and transparency, which most pictures are without.",
        "QwenImageLayeredPipeline",
        "the pipeline converts what it is given",
    ),
    Quirk(
        "mask_of_easyanimate_in_levels",
        lambda subject: takes("mask_video")(subject) and has("EasyAnimateTransformer3DModel")(subject),
        _mask_in_levels,
        "The call compares its mask with 255, where all others take 0 to 1.",
        "EasyAnimateInpaintPipeline",
        "it takes what its mask_processor gives",
    ),
    Quirk(
        "tags_of_omnigen",
        takes("input_images"),
        _tagged,
        "The tokenizer insists that the prompt speaks of each picture.",
        "OmniGenPipeline",
        "never: the model was trained so",
    ),
)

# --- the form of pictures ------------------------------------------------------------------------------------------

FormEffect = Callable[[list[Any]], Any]


def _grid(pictures: list[Any]) -> list[list[Any]]:
    """Pictures as the rows of an example and a query, whose last cell is to be made: an odd count is read as pairs of
    before and after, and the query."""
    if len(pictures) % 2 == 0:
        return [[*pictures, None]]
    return [
        [*pictures[index : index + 2], *[None] * (index + 2 > len(pictures))] for index in range(0, len(pictures), 2)
    ]


FORMS: tuple[Quirk[Mapping[str, FormEffect]], ...] = (
    Quirk(
        "examples_of_visualcloze",
        takes("task_prompt"),
        {"image": _grid},
        "They are examples of a task that the prompt describes, and a query, in rows; the signature says Tensor.",
        "VisualClozePipeline",
        "never: it is how the method works",
    ),
)

# --- facts of a profile --------------------------------------------------------------------------------------------

FieldEffect = Callable[[Arguments, Subject], dict[str, Any]]


def _instrumental(fields: Arguments, subject: Subject) -> dict[str, Any]:
    found = {name: value for name, value in fields.items() if name != "instrumental"}
    return found if found.get("lyrics") or not fields.get("instrumental") else {**found, "lyrics": "[Instrumental]"}


FIELDS: tuple[Quirk[FieldEffect], ...] = (
    Quirk(
        "instrumental_of_ace_step",
        lambda subject: takes("lyrics")(subject) and not takes("instrumental")(subject),
        _instrumental,
        "ACE-Step has no argument for music without a voice: its lyrics say so.",
        "AceStepPipeline",
        "never: the model was trained so",
    ),
)

# Words of the names of classes that are made for distilled models.
_DISTILLED = ("Turbo", "Lightning", "Schnell", "LCM", "Hyper", "Consistency", "Sprint", "Distilled")

GUIDANCE: tuple[Quirk[Arguments], ...] = (
    Quirk(
        "guidance_of_distilled_classes",
        lambda subject: any(word in subject.cls.__name__ for word in _DISTILLED),
        {"own_default": True},
        "Classes made for distilled models have the right guidance for a default; only their names tell.",
        "SanaSprintPipeline",
        "diffusers says so in a class attribute",
    ),
)


def _of_cascade(subject: Subject) -> Any:
    return subject.config("", "resolution_multiple") or subject.config("prior_pipe", "resolution_multiple")


MULTIPLES: tuple[Quirk[Callable[[Subject], int]], ...] = (
    Quirk(
        "latents_of_stable_cascade",
        lambda subject: isinstance(_of_cascade(subject), (int, float)),
        lambda subject: round(3 * _of_cascade(subject)),
        "A latent is 42.67 pixels, of which three are the least whole and even number.",
        "StableCascadeCombinedPipeline",
        "never: it is what the model is made of",
    ),
    Quirk(
        "latents_of_kandinsky",
        lambda subject: bool(subject.config("movq", "block_out_channels")),
        lambda subject: 4 ** (len(subject.config("movq", "block_out_channels")) - 1),
        "Its pipelines round the latents, too, up to their autoencoder's factor.",
        "KandinskyV22CombinedPipeline",
        "downscale_height_and_width rounds pixels alone",
    ),
)


def _tiles(subject: Subject) -> tuple[tuple[int, int], ...]:
    """(side, step) of the VAE's tiles in frames, height and width."""
    return tuple(zip(subject.pipeline.vae.kernel, subject.pipeline.vae.stride, strict=True))


def _on_grid(length: int, tile: tuple[int, int]) -> int:
    side, step = tile
    return side + max(0, round((length - side) / step)) * step


_TILED = has("AutoencoderKLAllegro")
_BLACK = "What the tiles of its VAE (24 x 320 x 320) do not cover stays black, without a word."

SideEffect = Callable[[int, int, Subject], tuple[int, int]]
SIDES: tuple[Quirk[SideEffect], ...] = (
    Quirk(
        "sides_of_allegro",
        _TILED,
        lambda width, height, subject: (_on_grid(width, _tiles(subject)[2]), _on_grid(height, _tiles(subject)[1])),
        _BLACK,
        "AllegroPipeline",
        "diffusers decodes it whole",
    ),
)

FrameEffect = Callable[[int, int, Subject], int]


def _places(subject: Subject) -> list[int]:
    parts = (subject.config(name, "motion_max_seq_length") for name in ("motion_adapter", "unet"))
    return [most for most in parts if isinstance(most, int)]


def _whole_batches(asked: int, fitted: int, subject: Subject) -> int:
    """Whole batches of latents, or one latent more."""
    factor = (frame_multiple(subject.pipeline) or 1) * subject.pipeline.vae.num_latent_frames_batch_size
    below = asked // factor * factor
    fitting = [count for count in (below, below + 1, below + factor) if count > 1]
    return fitted if asked == 1 else min(fitting, key=lambda count: abs(count - asked))


FRAMES: tuple[Quirk[FrameEffect], ...] = (
    Quirk(
        "one_length_of_latte",
        lambda subject: isinstance(subject.config("transformer", "video_length"), int),
        lambda asked, fitted, subject: asked if asked == 1 else subject.config("transformer", "video_length"),
        "Latte's transformer knows one length.",
        "LattePipeline",
        "never: the model was trained so",
    ),
    Quirk(
        "frames_of_allegro",
        _TILED,
        lambda asked, fitted, subject: _on_grid(asked, _tiles(subject)[0]),
        _BLACK,
        "AllegroPipeline",
        "diffusers decodes it whole",
    ),
    Quirk(
        "places_of_motion_layers",
        lambda subject: bool(_places(subject)),
        lambda asked, fitted, subject: min(fitted, *_places(subject)),
        "AnimateDiff's motion layers have a place for each of so many frames.",
        "AnimateDiffPipeline",
        "never: the layers were trained so",
    ),
    Quirk(
        "latents_of_cogvideox_in_batches",
        has("AutoencoderKLCogVideoX"),
        _whole_batches,
        "CogVideoX's VAE decodes latents in pairs after the first: an even number of them gives other frame counts.",
        "CogVideoXPipeline",
        "the VAE's batch is a switch, as LTX-Video's is",
    ),
)

TILES: tuple[Quirk[Callable[[Subject], int]], ...] = (
    Quirk(
        "tiles_of_a_sized_upscaler",
        lambda subject: (
            takes("image", "height")(subject)
            and isinstance(subject.config("unet", "sample_size"), int)
            and not {"vae", "movq"} & subject.components.keys()
        ),
        lambda subject: max(1, subject.config("unet", "sample_size") // 4),
        "DeepFloyd IF's upscaler is told its output's size, in pixels four times as large as what it was trained on.",
        "IFSuperResolutionPipeline",
        "never: the model was trained so",
    ),
)

RATES: tuple[Quirk[float], ...] = (
    Quirk(
        "frame_rate_of_mochi",
        has("MochiTransformer3DModel"),
        30.0,
        "Mochi was trained on 30 frames a second, and the example in diffusers saves at its helper's default.",
        "MochiPipeline",
        "the example says fps=30",
    ),
    Quirk(
        "frame_rate_of_ltx_latents",
        lambda subject: has("LTXLatentUpsamplerModel")(subject) and has("AutoencoderKLLTXVideo")(subject),
        25.0,
        "The upsampler has no rate among its arguments, and doubles the latents of a model of 25 frames a second.",
        "LTXLatentUpsamplePipeline",
        "the pipeline takes a frame_rate",
    ),
)


# --- before the load -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """What the authors of a component's class want: ``dtype`` for it whatever the rest is in, ``half`` in place of fp16
    for the whole model, the files' ``variant``, decoding in tiles."""

    cls: str
    dtype: str = ""
    half: str = ""
    variant: str = ""
    tiling: bool = False


def numbers_of(subject: Subject) -> dict[str, Numbers]:
    """By component: what its row says. Most need none: diffusers keeps the layers that a model class lists in
    _keep_in_fp32_modules itself."""
    rows = {effect.cls: effect for effect in effects_of(NUMBERS, subject)}
    return {name: rows[kind] for name, kind in subject.components.items() if kind in rows}


NUMBERS: tuple[Quirk[Numbers], ...] = (
    Quirk(
        "wan_decodes_in_fp32",
        has("AutoencoderKLWan"),
        Numbers("AutoencoderKLWan", dtype="float32"),
        "The Wan authors decode in fp32: in half precision the VAE's long causal convolutions band and flicker.",
        "WanPipeline",
        "never: the authors want it",
    ),
    Quirk(
        "sana_in_bf16",
        has("SanaTransformer2DModel"),
        Numbers("SanaTransformer2DModel", half="bfloat16", variant="bf16"),
        "Sana's linear attention overflows in fp16, so its repos ship a bf16 variant of the weights.",
        "SanaPipeline",
        "never: the weights are so",
    ),
    Quirk(
        "allegro_decodes_in_tiles",
        has("AutoencoderKLAllegro"),
        Numbers("AutoencoderKLAllegro", tiling=True),
        "diffusers implements its decoding in tiles only.",
        "AllegroPipeline",
        "diffusers decodes it whole",
    ),
)


def _unasked(subject: Subject) -> set[str]:
    """Components of a dtype of their own that the pipeline's code does not ask for."""
    source = source_of(subject.cls)
    return {
        name
        for name, found in numbers_of(subject).items()
        if found.dtype and f"self.{name}.dtype" not in source and source
    }


CASTS: tuple[Quirk[Callable[[Dtypes, Subject], dict[str, str]]], ...] = (
    Quirk(
        "own_dtype_that_the_code_does_not_ask_for",
        lambda subject: bool(_unasked(subject)),
        lambda dtypes, subject: {name: kind for name, kind in dtypes.items() if name not in _unasked(subject)},
        "Bria Fibo and JoyImage Edit hand Wan's VAE their latents in the dtype of the rest: it must be in that.",
        "JoyImageEditPipeline",
        "the pipelines cast to self.vae.dtype",
    ),
    Quirk(
        "pictures_cast_to_bf16",
        lambda subject: bool(_CAST.search(source_of(subject.cls))),
        lambda dtypes, subject: {
            **dtypes,
            **dict.fromkeys(sorted(set(_CAST.findall(source_of(subject.cls)))), "bfloat16"),
        },
        "Z-Image Omni casts the pictures that its VAE encodes to bf16, whatever dtype the VAE is in.",
        "ZImageOmniPipeline",
        "the pipeline casts to self.vae.dtype",
    ),
)

GUARDS: tuple[Quirk[Arguments], ...] = (
    Quirk(
        "guard_of_cosmos",
        lambda subject: "enable_safety_checker" in inspect.signature(subject.cls).parameters,
        {"enable_safety_checker": False, "safety_checker": None},
        "The guard is made by the constructor, and off only for who says so.",
        "Cosmos3OmniPipeline",
        "never: its license asks for the guard",
    ),
)

TABLES: tuple[tuple[Quirk[Any], ...], ...] = (
    CALLS,
    FORMS,
    FIELDS,
    GUIDANCE,
    MULTIPLES,
    SIDES,
    FRAMES,
    TILES,
    RATES,
    NUMBERS,
    CASTS,
    GUARDS,
)
