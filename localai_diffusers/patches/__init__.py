"""Gaps between the pinned libraries, each closed in one place with its reason; look here first when a pin moves.

Here: what replaces or adds to a foreign name. Not here: rules about single models (pipeline).
"""
