#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Run the tests as other processors would: scripts/test-processors.sh [setting ...] [-- pytest's arguments]
#
#   sse41       no vectors wider than 128 bits: torch's own kernels, and oneDNN's convolutions, which don't ask torch
#   avx2        256 bits, as most desktop processors
#   compatible  MKL's results as on every x86 processor
#   threads     one thread in each process
#   rounding    each layer's last digits made up (tests/rounding.py): what depends on them fails on some processor
# Without a setting all of them, one after the other. Each one's failures come again at the end.
set -uo pipefail
cd "$(dirname "$0")/.."

declare -A environments=(
    [sse41]="ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41"
    [avx2]="ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2"
    [compatible]="MKL_CBWR=COMPATIBLE"
    [threads]="OMP_NUM_THREADS=1 MKL_NUM_THREADS=1"
    [rounding]="PYTEST_PLUGINS=tests.rounding"
)
chosen=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    [ -n "${environments[$1]:-}" ] || { echo "no setting '$1'; there are: ${!environments[*]}" >&2; exit 2; }
    chosen+=("$1")
    shift
done
[ "${1:-}" != -- ] || shift
[ ${#chosen[@]} -gt 0 ] || chosen=(sse41 avx2 compatible threads rounding)

logs="$(mktemp -d)"
trap 'rm -rf "$logs"' EXIT
status=0
for setting in "${chosen[@]}"; do
    echo "== $setting: ${environments[$setting]}"
    # shellcheck disable=SC2086
    env ${environments[$setting]} venv/bin/python -m pytest "$@" 2>&1 | tee "$logs/$setting" || status=1
done
for setting in "${chosen[@]}"; do
    echo "== $setting: $(tail -n 1 "$logs/$setting")"
    grep -E '^(FAILED|ERROR) ' "$logs/$setting"
done
exit $status
