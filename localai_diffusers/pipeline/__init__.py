# SPDX-License-Identifier: MIT
"""What a pipeline takes and gives: signatures, tasks and siblings, sizes, guidance, and the rows of quirks.

Here: facts about a class and its components, found out once and read everywhere. Not here: files on disk (checkpoint),
building (loading) and the values of one request (generation).
"""
