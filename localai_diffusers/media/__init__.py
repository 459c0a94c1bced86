# SPDX-License-Identifier: MIT
"""Media that come in (pictures, videos, audio) and go out (files chosen by the payload's runtime type)."""
