#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Generate the gRPC stubs from backend.proto once more (install.sh does it as well).
set -euo pipefail
source "$(dirname "$0")/env.sh"

if [ -n "$libbackend" ]; then
    source_libbackend
    runProtogen
else
    [ -x "$venv/bin/python" ] ||
        fail "the backend is not installed (no $venv): run $backend_dir/install.sh first"
    generate_stubs "$venv/bin/python"
fi
