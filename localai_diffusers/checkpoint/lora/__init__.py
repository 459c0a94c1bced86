# SPDX-License-Identifier: MIT
"""LoRAs: what a trainer wrote, read from its header, in one normal form, each key accounted for.

A file goes through four rooms: its keys become the pieces of layers (:mod:`pieces`), the names of the layers are
resolved to the modules of the model by what fits (:mod:`names`, with the tables of :mod:`families`), what fits is told
from what does not (:mod:`fit`), and what no adapter library can take becomes a difference of weights
(:mod:`differences`). Nothing here knows a pipeline, and no model is built with weights: names and shapes decide. Not
here: finding the files and putting them on a pipeline (``loading.adapters.lora``).
"""
