#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Run the tests with the newest diffusers and transformers instead of the pins: scripts/test-next.sh [pytest's arguments]
#
# They go into an environment of their own (venv-next), which takes all else from ./venv. It may fail: its failures are
# what stands between here and the next pin. How a pin moves is told in CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "$0")/.."
home=venv-next

[ -x venv/bin/python ] || { echo "install first: make diffusers" >&2; exit 1; }
venv/bin/python -m venv --clear $home
packages='import sysconfig; print(sysconfig.get_path("purelib"))'
venv/bin/python -c "$packages" >"$($home/bin/python -c "$packages")/pinned.pth"  # after its own on the path
$home/bin/python -m pip install --disable-pip-version-check --progress-bar off --upgrade diffusers transformers
status=0
$home/bin/python -m pytest -n auto --dist worksteal "$@" || status=$?
$home/bin/python - <<'PY'
from importlib.metadata import version

print("ran with", ", ".join(f"{name} {version(name)}" for name in ("diffusers", "transformers", "huggingface_hub")))
PY
exit $status
