# SPDX-License-Identifier: MIT
"""Where a load's files come from, and what is made of them.

Here: sources and downloads, single files taken apart, skeletons without weights, the keywords of from_pretrained. Not
here: what a file says of itself (checkpoint), and which class is chosen (loading).
"""
