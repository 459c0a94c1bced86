# SPDX-License-Identifier: MIT
"""05: Wan 2.2 A14B, a pair of LoRAs (high and low noise); reference: plain diffusers with load_into_transformer_2."""
import tempfile
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
import numpy, torch
from safetensors.torch import save_file
from tests.support import any_backend, backend_pb2
from tests.rpc import Clip
from tests.zoo import checkpoint

FOLDER = Path(tempfile.mkdtemp()); FOLDER.mkdir(parents=True, exist_ok=True)
CALL = dict(height=32, width=32, num_frames=5)
def model():
    """Two experts with other weights, switched at 0.875 of the noise; a shift of 3 gives steps on both sides."""
    import diffusers
    p = diffusers.DiffusionPipeline.from_pretrained(checkpoint("WanPipeline"), dtype=torch.float32)
    second = diffusers.WanTransformer3DModel.from_config(p.transformer.config)
    torch.manual_seed(3)
    second.load_state_dict({k: v + 0.3 * v.std(unbiased=False) * torch.randn_like(v) for k, v in p.transformer.state_dict().items()})
    p.register_modules(transformer_2=second)
    p.register_to_config(boundary_ratio=0.875)
    p.save_pretrained(FOLDER / "wan22")
    return FOLDER / "wan22"
def lora(name, seed):
    """As diffusers saves it; all attention and feed-forward layers of the two blocks."""
    torch.manual_seed(seed)
    file = {}
    for block in range(2):
        for layer in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_v"):
            key = f"transformer.blocks.{block}.{layer}"
            file |= {f"{key}.lora_A.weight": torch.randn(4, 24) / 24 ** 0.5, f"{key}.lora_B.weight": torch.randn(24, 4)}
    save_file(file, FOLDER / name)
    return FOLDER / name
def reference(folder, high, low, second=True):
    import diffusers
    from localai_diffusers.media import videos    # the codec is not what is tested
    p = diffusers.WanPipeline.from_pretrained(folder, dtype=torch.float32)
    for name, file in (("h", high), ("l", low)):
        if file is not None:
            p.load_lora_weights(str(file), adapter_name=name, **({"load_into_transformer_2": True} if name == "l" and second else {}))
    p.set_adapters([n for n, f in (("h", high), ("l", low)) if f is not None]) if not second else None
    frames = p("a cat", num_inference_steps=6, generator=torch.Generator().manual_seed(7), output_type="np", **CALL).frames[0]
    videos.encode_video(frames, 16.0, FOLDER / "reference.mp4", "mp4", None)
    return numpy.array(Clip(FOLDER / "reference.mp4").frames, dtype=float)

def main():
    folder, high, low = model(), lora("style_high_noise.safetensors", 1), lora("style_low_noise.safetensors", 2)
    right, plain, only_high, none_second = reference(folder, high, low), reference(folder, None, None), reference(folder, high, None), reference(folder, high, low, False)
    with any_backend() as backend:
        def draw(**fields):
            said = backend.load(folder, **fields)
            dst = backend.folder / "out.mp4"
            backend.stub.GenerateVideo(backend_pb2.GenerateVideoRequest(prompt="a cat", dst=str(dst), seed=7, fps=16, step=6, **CALL), timeout=120)
            return numpy.array(Clip(dst).frames, dtype=float), said.message
        (bare, _), (got, said) = draw(), draw(LoraAdapters=[str(high), str(low)])
    def off(a, b): return round(float(numpy.abs(a - b).mean()), 2)
    print(f"05 {'PASS' if off(got, right) < 0.05 * off(right, plain) else 'FAIL'} off {off(got, right)} of effect {off(right, plain)}; to both-on-the-first {off(got, none_second)};"
          f" without LoRA product vs diffusers {off(bare, plain)}; high alone is {off(only_high, right)} from right; message {said!r}")

main()
