# SPDX-License-Identifier: MIT
"""What comes over the wire, as values: LoadSpec, GenerationRequest, their limits, the intake of media, token and
identity.

Here: everything that reads a protobuf message or checks a field by itself. Not here: what needs to know a pipeline or a
model's files (pipeline, loading, generation), and how work is queued (work).
"""
