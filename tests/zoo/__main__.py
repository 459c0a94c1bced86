# SPDX-License-Identifier: MIT
"""`python -m tests.zoo [--run] [names...]`: build the checkpoints, and with --run load and call each."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from . import ENTRIES, checkpoint
from .call import describe, run


def main() -> int:
    """Exit status 1 when any entry failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="entries, or beginnings of families; default: all")
    parser.add_argument("--run", action="store_true", help="load and call each one, too")
    options = parser.parse_args()
    chosen = [
        name
        for name, entry in ENTRIES.items()
        if not options.names
        or name in options.names
        or any(entry.family.startswith(wanted) for wanted in options.names)
    ]
    failed, begin = [], time.monotonic()
    for name in chosen:
        try:
            print(_line(name, options.run), flush=True)
        except Exception:
            failed.append(name)
            print(f"{name:48} FAILED\n{traceback.format_exc(limit=-6)}", flush=True)
    spent = time.monotonic() - begin
    print(f"{len(chosen) - len(failed)} of {len(chosen)} entries, {spent:.1f} s; failed: {failed}")
    return 1 if failed else 0


def _line(name: str, call: bool) -> str:
    begin = time.monotonic()
    folder = checkpoint(name)
    built = time.monotonic() - begin
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    line = f"{name:48} {built:5.2f} s built {size / 1e6:5.2f} MB"
    if not call:
        return line
    begin = time.monotonic()
    output = run(name)
    return f"{line} {time.monotonic() - begin:5.2f} s run  {ENTRIES[name].kind}: {describe(output)}"


if __name__ == "__main__":
    sys.exit(main())
