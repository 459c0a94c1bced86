# SPDX-License-Identifier: MIT
"""Work that several processes do together, a device each: this one is rank 0, and starts the others, its peers.

Here: start them, hand them work, stop all at the same step, notice who dies, end them. Not here: what the work is; it
comes as a function of ``loading`` or ``generation``.
"""
