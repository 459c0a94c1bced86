# SPDX-License-Identifier: MIT
"""Every pipeline that casts a component for the length of a call: a call that ends in there leaves it as it was.

In fp16, where they cast. The ends of a request (done, the client left, failed in the decode, refused) are walked in
test_zoo_server, for the whole zoo in fp32.
"""

from __future__ import annotations

import inspect
import unittest
from typing import Any

from diffusers_dynamic_loader import get_pipeline_registry
from localai_diffusers.errors import Cancelled
from localai_diffusers.pipeline.signatures import parameters_of
from tests import zoo
from tests.every_pipeline.test_zoo_server import options_of
from tests.support import generate, load

_CASTS = ("upcast_vae", "force_upcast", "vae.to(dtype=torch.float32)", "vae.to(torch.float32)")


def casting() -> list[str]:
    """Entries of the zoo whose class casts its VAE in its call, and that a prompt alone runs."""
    registry, found = get_pipeline_registry(), []
    for name, entry in zoo.ENTRIES.items():
        cls = registry[entry.pipeline]
        source = inspect.getsource(cls)
        casts = "vae" in inspect.signature(cls.__init__).parameters and any(words in source for words in _CASTS)
        if casts and entry.kind == "image" and set(entry.needs) == {"prompt"}:
            found.append(name)
    return found


class LeftBehindTest(unittest.TestCase):
    def picture(self, model: Any, entry: Any, seed: int) -> bytes:
        known = {"width", "height"} & entry.arguments.keys() & set(parameters_of(model.pipeline))
        sizes = {name: entry.arguments[name] for name in known}
        return generate(model, "a cat", step=2, seed=seed, **sizes)[0].tobytes()

    def dtypes(self, model: Any) -> list[Any]:
        return [(name, tensor.dtype) for name, tensor in model.pipeline.vae.named_parameters()]

    def test_a_decode_that_does_not_end(self) -> None:
        names = casting()
        self.assertGreater(len(names), 5)
        for name in names:
            with self.subTest(name):
                entry = zoo.ENTRIES[name]
                model = load(zoo.checkpoint(name), Options=[*options_of(entry), "torch_dtype:fp16"])
                kept, before = self.dtypes(model), self.picture(model, entry, 1)
                model.restore()
                with self.assertRaises(Cancelled):
                    self.cancelled_in_the_decode(model, entry)
                model.restore()
                self.assertEqual(self.dtypes(model), kept)
                self.assertEqual(self.picture(model, entry, 1), before)

    def cancelled_in_the_decode(self, model: Any, entry: Any) -> None:
        def leave(*_: Any) -> None:
            raise Cancelled("the client left")

        handle = model.pipeline.vae.decoder.register_forward_pre_hook(leave)
        try:
            self.picture(model, entry, 2)
        finally:
            handle.remove()


if __name__ == "__main__":
    unittest.main()
