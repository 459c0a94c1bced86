#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Run the tests the way LocalAI's CI does: python -m unittest test.py, in the backend's own environment.
set -euo pipefail
source "$(dirname "$0")/env.sh"

bash "$backend_dir/install.sh" requirements-test.txt
if [ -n "$libbackend" ]; then
    source_libbackend
    runUnittests
else
    cd "$backend_dir"
    "$venv/bin/python" -m unittest test.py
fi
