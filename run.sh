#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Start the backend: ./run.sh [--addr host:port]. LocalAI calls this, and may look at our parent process or
# send a signal, so the shell is replaced by python.
#
# It sources nothing of ours: a test of LocalAI's copies this file alone beside its libbackend.sh.
set -euo pipefail

backend_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export PYTORCH_ENABLE_MPS_FALLBACK=1  # operators that Apple's GPU lacks run on the CPU instead of failing
if [ -d /opt/intel ]; then export XPU=1; fi  # LocalAI's sign for its Intel images

for libbackend in "$backend_dir/common/libbackend.sh" "$backend_dir/../common/libbackend.sh"; do
    if [ -f "$libbackend" ]; then
        # The Python that the environment was made with (env.sh): the library's own default is 3.10.
        export PYTHON_VERSION="${PYTHON_VERSION:-3.11}" PYTHON_PATCH="${PYTHON_PATCH:-13}"
        # shellcheck disable=SC1090
        source "$libbackend"
        startBackend "$@"
    fi
done

if [ ! -x "$backend_dir/venv/bin/python" ] || [ ! -f "$backend_dir/backend_pb2_grpc.py" ]; then
    printf 'run.sh: the backend is not installed (no %s, or no gRPC stubs): run %s first\n' \
        "$backend_dir/venv" "$backend_dir/install.sh" >&2
    exit 1
fi
exec "$backend_dir/venv/bin/python" "$backend_dir/backend.py" "$@"
