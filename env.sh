# SPDX-License-Identifier: MIT
# What every script here begins with: where we are, and whether LocalAI's tree is around us.
# Sourced, never run. Only bash and coreutils, since an image of LocalAI has little else.

backend_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="$backend_dir/venv"

say() { printf '%s\n' "$*"; }

# LocalAI shows the last line of stderr to its user, so the cause and the way out stand in one line.
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# LocalAI's helper library is beside the scripts in an image, one folder up in a source tree, absent when
# alone.
libbackend=""
for candidate in "$backend_dir/common/libbackend.sh" "$backend_dir/../common/libbackend.sh"; do
    if [ -f "$candidate" ]; then
        libbackend="$candidate"
        break
    fi
done

# The name behind "requirements-": LocalAI's BUILD_TYPE, with the CUDA version where LocalAI appends it.
build_profile() {
    case "${BUILD_TYPE:-}" in
        cublas | l4t) say "$BUILD_TYPE${CUDA_MAJOR_VERSION:-}" ;;
        "") if [ "$(uname -s)" = Darwin ]; then say mps; else say cpu; fi ;;
        *) say "$BUILD_TYPE" ;;
    esac
}

# Source LocalAI's library with a Python that diffusers 0.42 and transformers 5 accept (3.11 or newer; the
# library's own default is 3.10). A PYTHON_VERSION from outside is left alone, and so is its patch level.
source_libbackend() {
    if [ -z "${PYTHON_VERSION:-}" ]; then
        export PYTHON_VERSION=3.11 PYTHON_PATCH=13
        if [ "$(build_profile)" = l4t13 ]; then  # the Python of LocalAI's own Jetson images
            export PYTHON_VERSION=3.12 PYTHON_PATCH=12 PY_STANDALONE_TAG=20251120
        fi
    fi
    # shellcheck disable=SC1090
    source "$libbackend"
    # A source checkout of LocalAI has its own backend.proto two folders up, which is compiled, as for all its
    # backends; protoc refuses a file that stands in two of its folders, so the library's own call will not do.
    if [ "$(proto_dir)" != "$backend_dir" ]; then
        runProtogen() {
            ensureVenv
            generate_stubs python
        }
    fi
}

# The folder of the backend.proto to compile: the core's where its tree is around us, else ours.
proto_dir() {
    if [ -n "$libbackend" ] && [ -f "$backend_dir/../../backend.proto" ]; then
        (cd "$backend_dir/../.." && pwd)
    else
        say "$backend_dir"
    fi
}

# Write backend_pb2.py and backend_pb2_grpc.py beside backend.py with the interpreter $1, and import them with
# it: stubs that the installed protobuf or grpcio refuses must end the build, not the first start.
generate_stubs() (
    cd "$backend_dir"
    rm -f backend_pb2.py backend_pb2_grpc.py
    "$1" -m grpc_tools.protoc -I"$(proto_dir)" --python_out=. --grpc_python_out=. "$(proto_dir)/backend.proto" ||
        fail "protoc could not generate the gRPC stubs from $(proto_dir)/backend.proto"
    # -B and no cache: a stale .pyc of the same size and second would hide a bad stub
    rm -f __pycache__/backend_pb2*.pyc
    "$1" -B -c 'import backend_pb2, backend_pb2_grpc' || {
        rm -f backend_pb2.py backend_pb2_grpc.py
        fail "the generated gRPC stubs don't import: grpcio, grpcio-tools and protobuf don't fit (above)"
    }
)
