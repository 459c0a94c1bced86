# SPDX-License-Identifier: MIT
"""GenerationRequest -> keyword arguments -> the call -> the file.

Here: one room for each kind of job (a file, an upscale, a depth map, a batch), the call under the step hook, and what
its failures mean. Not here: reading the message (wire) and writing formats (media).
"""
