# SPDX-License-Identifier: MIT
"""Modular pipelines: blocks in the place of a class's call, served by the rules of every other pipeline.

Here: their loading, and their blocks as a class with a signature. Not here: anything of classic pipelines.
"""
