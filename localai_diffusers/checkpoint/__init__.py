# SPDX-License-Identifier: MIT
"""What a model's files are: where they stand, what their headers say, whether they may be trusted.

Here: paths, headers, facts of folders and files, and what can be told from them without building a model. Not here:
which pipeline class serves them (loading), and what a loaded pipeline takes (pipeline).
"""
