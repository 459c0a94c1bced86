# SPDX-License-Identifier: MIT
"""LoadSpec -> a ready pipeline: the class, its components, adapters, placement, schedulers, and the one special path.

Here: everything between a load's plan and the model that serves. Not here: reading the message (wire), reading files
(checkpoint), and anything that happens once a request (generation).
"""
