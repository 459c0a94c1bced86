# SPDX-License-Identifier: MIT
"""``python -m localai_diffusers``: the commands of a person at a terminal."""

import sys

from localai_diffusers.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
