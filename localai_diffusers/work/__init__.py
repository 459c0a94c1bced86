# SPDX-License-Identifier: MIT
"""The engine and its jobs: one thread that works, the queue before it, cancel, Free, progress and metrics.

Here: what holds for any piece of work, whatever it computes. Not here: what a load or a generation does (loading,
generation); nothing here knows a pipeline.
"""
