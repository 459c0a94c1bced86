# SPDX-License-Identifier: MIT
"""The same backend for a person at a terminal: ``python -m localai_diffusers``.

Here: what prints for people and parses their arguments. Not here: anything that the server needs.
"""
