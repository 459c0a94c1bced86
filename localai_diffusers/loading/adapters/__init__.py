# SPDX-License-Identifier: MIT
"""What is put on a pipeline beside its own weights: LoRAs, textual inversions, IP-Adapters, ControlNets.

Every kind is a module with the same steps, a function of the step's name where the kind has it:

- ``plan(spec, cls, settings, model)`` -> frozen values: each file found, intact, read by its header and judged
  against the model's configs (``model``: a Mapping of component to modules, ``loading.skeletons.Skeletons``). All that
  can be refused is refused here, while the earlier model still serves. It runs once.
- ``parts(planned)`` -> the components that it brings (``components.Replacement``), loaded with the model's own.
- ``apply(pipeline, planned)`` -> notes: put on the loaded pipeline before it gets its place. A file is not judged anew.
- its part of a request is taken by ``generation.arguments``, which asks the loaded pipeline.

``adapters`` does the steps of all kinds. Not here: other components (loading), what the files hold (checkpoint).
"""
