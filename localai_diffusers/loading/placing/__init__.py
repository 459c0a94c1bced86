# SPDX-License-Identifier: MIT
"""Where a loaded pipeline computes and in what form: device, dtype, offload, switches, the settings of the process.

Here: everything that trades memory for speed. Not here: loading the weights (files).
"""
