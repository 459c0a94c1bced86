#!/usr/bin/env bash
# Start the backend: ./run.sh [--addr host:port]. LocalAI calls this, and may look at our parent process or
# send a signal, so the shell is replaced by python.
set -euo pipefail
source "$(dirname "$0")/env.sh"

export PYTORCH_ENABLE_MPS_FALLBACK=1  # operators that Apple's GPU lacks run on the CPU instead of failing
if [ -d /opt/intel ]; then export XPU=1; fi  # LocalAI's sign for its Intel images

if [ -n "$libbackend" ]; then
    source_libbackend
    startBackend "$@"
fi

[ -x "$venv/bin/python" ] && [ -f "$backend_dir/backend_pb2_grpc.py" ] ||
    fail "the backend is not installed (no $venv, or no gRPC stubs): run $backend_dir/install.sh first"
exec "$venv/bin/python" "$backend_dir/backend.py" "$@"
