# SPDX-License-Identifier: MIT
"""LocalAI's half of the conversation: its documented and gallery YAMLs, and what its core makes of them and of a
request.

The YAMLs are ours, reduced to the keys that reach a backend; a gallery entry is the file that its `url` names with its
overrides. The translations follow LocalAI's core/backend/options.go and core/http/endpoints (openai/image.go,
openai/inpainting.go, openai/upscale.go, localai/video.go).
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import backend_pb2

# docs/content/features/image-generation.md
DOCUMENTED: Mapping[str, str] = {
    "animagine-xl-cpu": """
        parameters: {model: Linaqruf/animagine-xl}
        f16: false
        diffusers: {cuda: false, scheduler_type: euler_a}
        """,
    "animagine-xl": """
        parameters: {model: Linaqruf/animagine-xl}
        cuda: true
        f16: true
        diffusers: {scheduler_type: euler_a}
        """,
    "toonyou": """
        parameters: {model: toonyou_beta6.safetensors}
        step: 30
        cuda: true
        f16: true
        cfg_scale: 8
        diffusers: {pipeline_type: StableDiffusionPipeline, scheduler_type: k_dpmpp_sde, clip_skip: 11,
                    enable_parameters: "negative_prompt,num_inference_steps,clip_skip"}
        """,
    "cfg_scale-option": """
        parameters: {model: Lykon/dreamshaper-8}
        options: ["cfg_scale:6"]
        diffusers: {pipeline_type: StableDiffusionPipeline}
        """,
    "ghibli": """
        parameters: {model: nitrosocke/Ghibli-Diffusion}
        step: 25
        cuda: true
        f16: true
        diffusers: {pipeline_type: StableDiffusionImg2ImgPipeline,
                    enable_parameters: "negative_prompt,num_inference_steps,image"}
        """,
    "depth2img": """
        parameters: {model: stabilityai/stable-diffusion-2-depth}
        step: 50
        cuda: true
        f16: true
        cfg_scale: 6
        diffusers: {pipeline_type: StableDiffusionDepth2ImgPipeline,
                    enable_parameters: "negative_prompt,num_inference_steps,image"}
        """,
    "img2vid": """
        parameters: {model: stabilityai/stable-video-diffusion-img2vid}
        step: 25
        cuda: true
        f16: true
        diffusers: {pipeline_type: StableVideoDiffusionPipeline}
        """,
    "txt2vid": """
        parameters: {model: damo-vilab/text-to-video-ms-1.7b}
        step: 25
        cuda: true
        f16: true
        diffusers: {pipeline_type: VideoDiffusionPipeline}
        """,
    "imported-xl": """
        parameters: {model: owner/some-sdxl-finetune}
        diffusers: {pipeline_type: StableDiffusionPipeline, cuda: false,
                    enable_parameters: "negative_prompt,num_inference_steps"}
        """,
    "imported-flux": """
        parameters: {model: owner/some-flux-finetune}
        diffusers: {pipeline_type: StableDiffusionPipeline, cuda: false,
                    enable_parameters: "negative_prompt,num_inference_steps"}
        """,
}

_FLUX = """
        f16: true
        low_vram: true
        step: 25
        cfg_scale: 1
        diffusers: {cuda: true, enable_parameters: num_inference_steps, pipeline_type: FluxPipeline}
        """
_QWEN = """
        cfg_scale: 0
        f16: true
        low_vram: true
        step: 50
        options: ["true_cfg_scale:4.0", "torch_dtype:bf16"]
        """
_LTX2 = """
        low_vram: true
        options: ["torch_dtype:bf16"]
        diffusers: {cuda: true, pipeline_type: LTX2ImageToVideoPipeline}
        """

# gallery/index.yaml and the files that its entries name
GALLERY: Mapping[str, str] = {
    "chroma1-hd": """
        parameters: {model: lodestones/Chroma1-HD}
        cfg_scale: 3
        step: 40
        options: ["torch_dtype:bf16"]
        diffusers: {pipeline_type: ChromaPipeline}
        """,
    "stable-diffusion-x4-upscaler": """
        parameters: {model: stabilityai/stable-diffusion-x4-upscaler}
        f16: true
        diffusers: {pipeline_type: StableDiffusionUpscalePipeline}
        """,
    "z-image-diffusers": """
        parameters: {model: Tongyi-MAI/Z-Image}
        cfg_scale: 3
        step: 35
        options: ["torch_dtype:bf16"]
        diffusers: {pipeline_type: ZImagePipeline}
        """,
    "z-image-turbo-diffusers": """
        parameters: {model: Tongyi-MAI/Z-Image-Turbo}
        cfg_scale: 0
        step: 9
        options: ["torch_dtype:bf16"]
        diffusers: {pipeline_type: ZImagePipeline}
        """,
    "qwen-image": f"""
        parameters: {{model: Qwen/Qwen-Image}}
        diffusers: {{cuda: true, enable_parameters: num_inference_steps, pipeline_type: DiffusionPipeline}}{_QWEN}""",
    "qwen-image-edit": f"""
        parameters: {{model: Qwen/Qwen-Image-Edit}}
        diffusers: {{cuda: true, enable_parameters: "num_inference_steps,image",
                     pipeline_type: QwenImageEditPipeline}}{_QWEN}""",
    "qwen-image-edit-2509": f"""
        parameters: {{model: Qwen/Qwen-Image-Edit-2509}}
        diffusers: {{cuda: true, enable_parameters: "num_inference_steps,image",
                     pipeline_type: QwenImageEditPipeline}}{_QWEN}""",
    "ltx-2": f"""
        parameters: {{model: Lightricks/LTX-2}}{_LTX2}""",
    "ltx-2.3": f"""
        parameters: {{model: Lightricks/LTX-2.3}}{_LTX2}""",
    "dreamshaper": """
        parameters: {model: DreamShaper_8_pruned.safetensors}
        step: 25
        f16: true
        diffusers: {pipeline_type: StableDiffusionPipeline, cuda: true, scheduler_type: k_dpmpp_2m,
                    enable_parameters: "negative_prompt,num_inference_steps"}
        """,
    "stable-diffusion-3-medium": """
        parameters: {model: v2ray/stable-diffusion-3-medium-diffusers}
        f16: false
        step: 25
        diffusers: {cuda: true, enable_parameters: "negative_prompt,num_inference_steps",
                    pipeline_type: StableDiffusion3Pipeline}
        """,
    "flux.1-dev": f"""
        parameters: {{model: ChuckMcSneed/FLUX.1-dev}}{_FLUX}""",
    "flux.1-schnell": f"""
        parameters: {{model: black-forest-labs/FLUX.1-schnell}}{_FLUX}""",
    "flux.1dev-abliteratedv2": f"""
        parameters: {{model: SicariusSicariiStuff/flux.1dev-abliteratedv2}}{_FLUX}""",
}

# What is tried by hand before a release: the gallery's dreamshaper, and two entries with bf16 asked for.
QA: Mapping[str, str] = {
    "qa-dreamshaper": GALLERY["dreamshaper"],
    "qa-z-image-turbo": """
        parameters: {model: Tongyi-MAI/Z-Image-Turbo}
        step: 9
        options: ["torch_dtype:bf16"]
        diffusers: {pipeline_type: ZImagePipeline, cuda: true}
        """,
    "qa-flux.1-dev": """
        parameters: {model: black-forest-labs/FLUX.1-dev}
        cfg_scale: 1
        step: 25
        options: ["torch_dtype:bf16"]
        diffusers: {pipeline_type: FluxPipeline, cuda: true}
        """,
}

YAMLS: Mapping[str, str] = {**DOCUMENTED, **GALLERY, **QA}
Config = Mapping[str, Any]


def config(name: str) -> dict[str, Any]:
    """The YAML of that name, read."""
    import yaml

    return yaml.safe_load(YAMLS[name])


def _diffusers(config: Config) -> Config:
    return config.get("diffusers") or {}


def install(stand_in: Path, config: Config, models: Path) -> Path:
    """Put ``stand_in`` where the core keeps the model of ``config`` in the folder ``models``: a file under its own
    name, a Hub repo as a managed artifact. Returns what ModelFile will be."""
    model = config["parameters"]["model"]
    if stand_in.is_file():
        return Path(shutil.copy(stand_in, models / model))
    target = models / ".artifacts" / "huggingface" / f"{abs(hash(model)):x}" / "snapshot"
    shutil.copytree(stand_in, target, dirs_exist_ok=True)
    return target


def model_options(config: Config, models: Path, model_file: Path | None = None) -> Any:
    """ModelOptions as core/backend/options.go fills it, language models' defaults included.

    ``model_file``: a managed artifact's snapshot; without one ModelFile is the model's name below ``models``, there or
    not. Where the YAML says cuda, ``device:cpu`` is added, which no user would.
    """
    own, model = _diffusers(config), config["parameters"]["model"]
    cuda = bool(config.get("cuda") or own.get("cuda"))
    return backend_pb2.ModelOptions(
        Model=model,
        ModelFile=str(model_file or models / model),
        ModelPath=str(models),
        CUDA=cuda,
        PipelineType=own.get("pipeline_type", ""),
        SchedulerType=own.get("scheduler_type", ""),
        IMG2IMG=own.get("img2img", False),
        CLIPModel=own.get("clip_model", ""),
        CLIPSubfolder=own.get("clip_subfolder", ""),
        CLIPSkip=own.get("clip_skip", 0),
        ControlNet=own.get("control_net", ""),
        CFGScale=config.get("cfg_scale", 0),
        F16Memory=config.get("f16", False),
        LowVRAM=config.get("low_vram", False),
        Type=config.get("type", ""),
        LoraAdapter=config.get("lora_adapter", ""),
        LoraScale=config.get("lora_scale", 0),
        LoraBase=config.get("lora_base", ""),
        LoraAdapters=config.get("lora_adapters", []),
        LoraScales=config.get("lora_scales", []),
        Options=[*config.get("options", []), *(["device:cpu"] if cuda else [])],
        EngineArgs=json.dumps(config["engine_args"]) if "engine_args" in config else "",
        Threads=config.get("threads", 1),
        Seed=config.get("seed") or random.randrange(2**31),
        ContextSize=1024,
        NBatch=512,
        NGPULayers=9999999,
        MMap=True,
        FlashAttention="auto",
        DType=config.get("dtype", ""),
        Quantization=config.get("quantization", ""),
        TrustRemoteCode=config.get("trust_remote_code", False),
    )


# --- requests ------------------------------------------------------------------------------------------------------


def image_request(config: Config, body: Mapping[str, Any], folder: Path) -> Any:
    """/v1/images/generations with the JSON ``body``: pictures as files without an extension, dst made and empty."""
    prompt, negative, *_ = *body.get("prompt", "").split("|"), ""
    width, _, height = body.get("size", "").partition("x") if "x" in body.get("size", "") else ("512", "x", "512")
    own = _diffusers(config)
    files = body.get("files") or [body[name] for name in ("file",) if name in body]
    return backend_pb2.GenerateImageRequest(
        positive_prompt=prompt,
        negative_prompt=negative,
        width=int(width),
        height=int(height),
        step=_step(config, body),
        seed=body.get("seed", config.get("seed", -1)),
        CLIPSkip=body.get("clip_skip", own.get("clip_skip", 0)),
        EnableParameters=own.get("enable_parameters", ""),
        src=_upload(files[0], folder) if files else "",
        ref_images=[_upload(picture, folder) for picture in body.get("ref_images", [])],
        dst=_destination(folder, "b64", ".png"),
        ModelIdentity=config["parameters"]["model"],
    )


def _step(config: Config, body: Mapping[str, Any]) -> int:
    quality = str(body.get("quality", ""))
    return body.get("step") or (int(quality) if quality.isdigit() else 0) or config.get("step") or 15


def inpainting_request(config: Config, body: Mapping[str, Any], folder: Path) -> Any:
    """/v1/images/inpainting: 512x512 and seed 0 whatever is asked for, and everything sent twice."""
    source = folder / f"inpaint_{random.randrange(2**31)}.json"
    source.write_text(json.dumps({"image": body["image"], "mask_image": body["mask"]}), encoding="utf-8")
    return backend_pb2.GenerateImageRequest(
        positive_prompt=body["prompt"],
        width=512,
        height=512,
        step=body.get("steps", 25),
        seed=0,
        src=str(source),
        ref_images=[_upload(body["image"], folder), _upload(body["mask"], folder)],
        dst=_destination(folder, "out_", ".png"),
        EnableParameters=_diffusers(config).get("enable_parameters", ""),
        ModelIdentity=config["parameters"]["model"],
    )


def upscale_request(_config: Config, body: Mapping[str, Any], folder: Path) -> Any:
    """/v1/images/upscale: no identity, no prompt, and dst is not made beforehand."""
    return backend_pb2.UpscaleImageRequest(
        src=_upload(body["image"], folder),
        scale=body.get("scale", 4),
        dst=str(folder / f"upscale_{random.randrange(2**31)}.png"),
    )


def video_request(config: Config, body: Mapping[str, Any], folder: Path) -> Any:
    """/video: the JSON's own fields, 0 or "" where it has none; nothing of the YAML."""
    plain = ("prompt", "negative_prompt", "width", "height", "num_frames", "fps", "step", "seed", "cfg_scale", "params")
    media = {name: _upload(body[name], folder) for name in ("start_image", "end_image", "audio") if name in body}
    return backend_pb2.GenerateVideoRequest(
        **{name: body[name] for name in plain if name in body},
        **media,
        dst=_destination(folder, "b64", ".mp4"),
        ModelIdentity=config["parameters"]["model"],
    )


def _upload(text: str, folder: Path) -> str:
    """The temporary file, without an extension, of bare base64."""
    handle, name = tempfile.mkstemp(prefix="b64", dir=folder)
    with os.fdopen(handle, "wb") as stream:
        stream.write(base64.b64decode(text))
    return name


def _destination(folder: Path, prefix: str, suffix: str) -> str:
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=folder)
    os.close(handle)
    return name
