#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Install the backend: ./install.sh [more requirements files]
#
# In LocalAI's tree its libbackend.sh does the work. Alone, a virtual environment is made in ./venv:
#   PYTHON=python3.12 ./install.sh          with that interpreter instead of the first suitable one
#   BUILD_TYPE=cuda ./install.sh            for an accelerator: any requirements-<name>.txt (default: cpu)
#   LOCALAI_DIFFUSERS_DISK_GB=0             don't ask for free disk space (or ask for another number of GB)
# pip's own variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_PROXY ...) work as usual.
# A second run finds nothing to do and says so.
set -euo pipefail
source "$(dirname "$0")/env.sh"

stamp="$venv/.installed"
log="$venv/install.log"

check_profile() {
    case "$1" in
        l4t12)
            fail "the profile l4t12 has PyTorch wheels for Python 3.10 only, and this backend needs 3.11:" \
                "keep LocalAI's own diffusers backend on that board"
            ;;
    esac
    [ -f "$backend_dir/requirements-$1.txt" ] ||
        fail "no requirements-$1.txt for BUILD_TYPE='${BUILD_TYPE:-}' and" \
            "CUDA_MAJOR_VERSION='${CUDA_MAJOR_VERSION:-}'; there are: $(known_profiles)"
}

check_files() {
    local file
    for file in "$@"; do
        [ -f "$backend_dir/$file" ] || fail "no $file in $backend_dir; the arguments are more requirements files"
    done
}

known_profiles() {
    local file name
    for file in "$backend_dir"/requirements-*.txt; do
        name="$(basename "$file" .txt)"
        case "${name#requirements-}" in
            test | torch | sd-embed | cpu-pytorch | quantization) ;;  # parts and extras, not profiles
            *) printf '%s ' "${name#requirements-}" ;;
        esac
    done
}

# -------------------------------------------------------------------------------- python and disk

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

new_enough() {  # $1 is "major.minor"
    [[ "$1" =~ ^([0-9]+)\.([0-9]+)$ ]] || return 1
    ((BASH_REMATCH[1] > 3 || (BASH_REMATCH[1] == 3 && BASH_REMATCH[2] >= 11)))
}

# Set `python`. 3.11 goes first: it is what the tests run on, and what every wheel exists for.
find_python() {
    local candidate version seen="" candidates=(python3.11 python3.12 python3.13 python3)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        version="$(python_version "$candidate")" || continue
        if ! new_enough "$version"; then
            seen+=" $candidate is $version;"
        elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            seen+=" $candidate lacks the venv module (Debian, Ubuntu: apt install python$version-venv);"
        else
            python="$candidate"
            return
        fi
    done
    seen="${seen:- ${PYTHON:-python3} does not run;}"
    fail "no suitable Python: 3.11 or newer with the venv module is needed.$seen" \
        "install one, or name it: PYTHON=/path/to/python3.11 ./install.sh"
}

# The CPU build of PyTorch and the rest take 2 GB; CUDA, ROCm and XPU bring their libraries along, packed and
# unpacked.
needed_gb() {
    case "$1" in
        cpu | mps) say 4 ;;
        *) say 12 ;;
    esac
}

check_room() {  # $1 is the profile
    local needed free
    needed="${LOCALAI_DIFFUSERS_DISK_GB:-$(needed_gb "$1")}"
    free="$(df -Pk "$backend_dir" | awk 'NR == 2 { print int($4 / 1048576) }')"
    [ "$free" -ge "$needed" ] ||
        fail "not enough room in $backend_dir: $free GB free, about $needed GB needed for '$1'." \
            "Make room, or set LOCALAI_DIFFUSERS_DISK_GB to what you know to be enough"
}

# -------------------------------------------------------------------------------- what is installed

# One line a file, valid as long as no requirements file, no line of the wire contract and no profile changes.
stamp_line() {
    say "$1 $(cat "$backend_dir"/requirements*.txt "$backend_dir/backend.proto" | cksum) $profile"
}

is_installed() {
    local file
    [ -f "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null || return 1
    [ -f "$backend_dir/backend_pb2.py" ] && [ -f "$backend_dir/backend_pb2_grpc.py" ] || return 1
    for file in "$@"; do
        grep -qxF "$(stamp_line "$file")" "$stamp" || return 1
    done
}

# A venv of another profile holds another build of torch under the same version number: pip would leave it
# there, so it is made anew. One that works and bears no profile was made by hand, and is kept.
make_venv() {
    local made_for
    made_for="$(cat "$venv/.profile" 2>/dev/null || say "$profile")"
    if [ "$made_for" != "$profile" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
        [ ! -L "$venv" ] ||
            fail "$venv is a link to an environment for '$made_for', or to none that works: remove the link"
        say "making $venv with $python ($("$python" -V 2>&1)) for '$profile'"
        "$python" -m venv --clear "$venv" || fail "$python could not make the environment $venv (above)"
    fi
    say "$profile" >"$venv/.profile"
    rm -f "$stamp"
}

# In LocalAI's order. One call for all of them, so that the resolver sees every pin at once and nothing moves
# torch.
requirement_files() {
    local name
    for name in requirements-install.txt requirements.txt "requirements-$profile.txt" $(cpu_index_file) \
        requirements-after.txt "requirements-$profile-after.txt" "$@"; do
        if [ -f "$backend_dir/$name" ]; then say "$name"; fi
    done
}

# The package index gives Linux the CUDA build of torch, gigabytes that a CPU has no use for. PyTorch's own
# index has the CPU build; it is asked for only where it answers, since pip waits for each package at an index
# that doesn't.
cpu_index_file() {
    local name=requirements-cpu-pytorch.txt
    if [ "$profile" = cpu ] && [ "$(uname -s)" = Linux ] && index_answers "$backend_dir/$name"; then
        say "$name"
    fi
}

index_answers() {  # $1 is a requirements file with one --extra-index-url line
    "${python:-python3}" - "$(awk '$1 == "--extra-index-url" { print $2 }' "$1")" <<'PY' 2>/dev/null
import sys
import urllib.request

with urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "/torch/", method="HEAD"), timeout=5):
    pass
PY
}

pip_install() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1 | tee "$log" ||
        explain_pip_failure
}

explain_pip_failure() {
    local offline='NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|NameResolutionError|unreachable'
    if grep -q 'No space left on device' "$log"; then
        fail "the disk is full (above, and in $log): make room in $backend_dir and in ${TMPDIR:-/tmp}," \
            "then run it again"
    elif grep -qE "$offline" "$log" && ! grep -q ResolutionImpossible "$log"; then
        fail "no network: the package index could not be reached (above, and in $log). Check the connection" \
            "and PIP_PROXY / PIP_INDEX_URL, or point PIP_FIND_LINKS at a folder of wheels; then run it again"
    fi
    fail "pip could not install the requirements (above, and in $log)"
}

# -------------------------------------------------------------------------------- the two ways

# The command finds the tree from where it lies, so that both may be moved.
add_command() {
    install -m 755 "$backend_dir/scripts/localai-diffusers" "$venv/bin/localai-diffusers"
}

install_alone() {
    local file files options=()
    cd "$backend_dir"
    if is_installed requirements.txt "$@"; then
        add_command
        say "already installed for '$profile' in $venv"
        return
    fi
    find_python
    grep -q " $profile\$" "$stamp" 2>/dev/null || check_room "$profile"
    make_venv
    files="$(requirement_files "$@")"
    for file in $files; do options+=(-r "$file"); done
    say "installing" $files "(some minutes the first time)"
    pip_install "${options[@]}"
    generate_stubs "$venv/bin/python"
    add_command
    for file in $files; do stamp_line "$file"; done >"$stamp"
    say "installed for '$profile' in $venv after $SECONDS s: ./run.sh starts the backend," \
        "venv/bin/localai-diffusers is its commands"
    if [ "$profile" = cpu ] && command -v nvidia-smi >/dev/null; then
        say "there seems to be an NVIDIA GPU: BUILD_TYPE=cuda ./install.sh makes use of it"
    fi
}

install_in_localai() {
    local file installer=(uv pip) cpu_index
    source_libbackend
    check_profile "$BUILD_PROFILE"
    if [ "${USE_PIP:-false}" = true ]; then
        installer=(pip)
    else  # pip takes the best version of all indexes; uv stops at the first that has the name, unless told
        EXTRA_PIP_INSTALL_FLAGS="${EXTRA_PIP_INSTALL_FLAGS:-} --index-strategy=unsafe-best-match"
    fi
    cpu_index="$(profile="$BUILD_PROFILE" cpu_index_file)"
    if [ -n "$cpu_index" ]; then
        EXTRA_PIP_INSTALL_FLAGS="${EXTRA_PIP_INSTALL_FLAGS:-} --requirement $backend_dir/$cpu_index"
    fi
    installRequirements
    case "$BUILD_PROFILE" in  # where LocalAI's own backend has it; its setup.py asks for packages that it never imports
        cpu | cublas12 | cublas13 | intel)
            "${installer[@]}" install --no-deps --requirement "$backend_dir/requirements-sd-embed.txt" ||
                say "sd_embed could not be installed: with SD_EMBED=1 no model will load until it is" >&2
            ;;
    esac
    for file in "$@"; do
        "${installer[@]}" install --requirement "$backend_dir/$file"
    done
}

profile="$(build_profile)"
check_profile "$profile"
check_files "$@"
if [ -n "$libbackend" ]; then install_in_localai "$@"; else install_alone "$@"; fi
