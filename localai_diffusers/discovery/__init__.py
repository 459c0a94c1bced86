# SPDX-License-Identifier: MIT
"""Which pipelines diffusers has, and which one a class name, a task or a model means.

Here: scan, traits, tasks, aliases, registry, siblings, what the Hub says, resolve and load. Nothing of ours is imported
from outside this package, and it works alone; ``diffusers_dynamic_loader`` is its public face. Not here: what LocalAI
asks for (loading), and what a loaded pipeline takes of a request (pipeline).

No pipeline is named but ``DiffusionPipeline``, from which all derive: the tables hold words of tasks and parameters.
"""
