# SPDX-License-Identifier: MIT
"""04: a class that needs one component more than the repo has, and that component by options: the class gives way, the option is dropped.

AnimateDiff is used no other way (a Stable Diffusion repo and a motion adapter's repo); the same for Kandinsky and Stable Cascade in two repos.
"""
from _kit import *
from localai_diffusers import patches
def main():
    rows, ok = [], True
    with any_backend() as backend:
        adapter = tiny_model("animatediff") / "motion_adapter"
        pipe = load_plain(tiny_model("sd"), diffusers.AnimateDiffPipeline, motion_adapter=diffusers.MotionAdapter.from_pretrained(adapter))
        with patches.during_calls(pipe):
            right = plain(pipe, prompt="a cat", width=64, height=64, num_frames=8, num_inference_steps=4, decode_chunk_size=8).frames[0]
        said = backend.load(tiny_model("sd"), PipelineType="AnimateDiffPipeline", Options=[f"motion_adapter:{adapter}"])
        path, message = ask_video(backend, "animate", num_frames=8)
        off = vdiff(path, right) if path else message[:120]; ok &= isinstance(off, float) and off < 1
        rows.append(f"AnimateDiff: {off}; LoadModel {said.success} {said.message[26:140]!r}")
        prior, decoder = checkpoint("KandinskyV22PriorPipeline"), checkpoint("KandinskyV22Pipeline")
        said = backend.load(decoder, PipelineType="KandinskyV22CombinedPipeline", Options=[f"prior_{part.name}:{part}" for part in prior.iterdir() if part.is_dir()])
        path, message = ask(backend, "kandinsky")
        own, of_prior = load_plain(decoder), load_plain(prior)
        both = diffusers.KandinskyV22CombinedPipeline(**own.components, **{f"prior_{name}": part for name, part in of_prior.components.items()}); both.set_progress_bar_config(disable=True)
        both.prior_pipe.set_progress_bar_config(disable=True); both.decoder_pipe.set_progress_bar_config(disable=True)
        right = plain(both, prompt="a cat", width=64, height=64, num_inference_steps=4).images[0]
        off = diff(path, right) if path else message[:120]; ok &= off == 0.0
        rows.append(f"Kandinsky 2.2 of two repos: {off}; LoadModel {said.success}")
        for cls, base, option in (("AnimateDiffSDXLPipeline", "StableDiffusionXLPipeline", "motion_adapter"), ("StableDiffusionDiffEditPipeline", "StableDiffusionPipeline", "inverse_scheduler"),
                                  ("LTXLatentUpsamplePipeline", "LTXPipeline", "latent_upsampler"), ("StableDiffusionControlNetPipeline", "StableDiffusionPipeline", "controlnet")):
            said = backend.load(checkpoint(base), PipelineType=cls, Options=[f"{option}:{checkpoint(cls) / option}"])
            loaded = [line.split(" is loaded as ")[1].split()[0] for line in backend.log.splitlines() if " is loaded as " in line][-1]
            ok &= loaded == cls; rows.append(f"{cls} + {option}: loaded as {loaded}")
    print(f"04 {'PASS' if ok else 'FAIL'}", "; ".join(rows))
main()
