# SPDX-License-Identifier: MIT
"""Prompts with weights, or longer than a text encoder's window, as embeddings.

Here: the libraries that do it (compel, sd_embed) and what they share. Not here: plain texts, which go to the pipeline
as they are (arguments).
"""
