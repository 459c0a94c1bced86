# SPDX-License-Identifier: MIT
"""A request and a pipeline's signature -> the keyword arguments of the call.

Here: which value of the request fills which argument, in which form. Not here: prompts as embeddings (prompts) and the
call.
"""
