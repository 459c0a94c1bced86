# SPDX-License-Identifier: MIT
"""Writes docs/performance.svg and the tables of docs/performance.md from benchmarks/results.

Run: ``venv/bin/python benchmarks/chart.py``. A test holds both against the results.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from benchmarks.common import HOME, RESULTS, shown  # noqa: E402

PAGE, CHART = HOME / "docs" / "performance.md", HOME / "docs" / "performance.svg"
_WIDTH, _ROW, _LEFT, _SCALE = 860, 24, 470, 150.0  # pixels; a bar as long as _SCALE is at its limit
_MOST = 2.2  # of the limit: longer ones are cut
_MET, _MISSED = "#2f7d4f", "#b5532a"


def results(name: str) -> dict[str, Any]:
    """What a benchmark kept, nothing where it was not run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def chart(overhead: dict[str, Any]) -> str:
    """Each figure that has a bar, as its share of it: beyond the line is beyond the bar."""
    rows = [row for row in overhead.get("figures", []) if row["bar"] and row["value"]]
    height = _ROW * (len(rows) + 1) + 16
    parts = [part for number, row in enumerate(rows) for part in _bar(row, _ROW * number + 8)]
    limit = _LEFT + _SCALE
    style = 'font-family="sans-serif" font-size="12"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {style}>',
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            *parts,
            f'<line x1="{limit}" y1="4" x2="{limit}" y2="{height - _ROW}" stroke="#333333" stroke-dasharray="3 3"/>',
            f'<text x="{limit}" y="{height - 8}" text-anchor="middle">the bar</text>',
            "</svg>\n",
        ]
    )


def _bar(row: dict[str, Any], top: int) -> Iterable[str]:
    share = row["value"] / row["most"] if row["most"] else row["least"] / row["value"]
    length = min(share, _MOST) * _SCALE
    color = _MET if row["met"] else _MISSED
    figure = f"{shown(row['value'])} {row['unit']}".strip()
    yield f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{escape(row["name"])}</text>'
    yield f'<rect x="{_LEFT}" y="{top + 3}" width="{length:.0f}" height="{_ROW - 8}" fill="{color}"/>'
    yield f'<text x="{_LEFT + length + 6:.0f}" y="{top + 14}">{escape(figure)} ({escape(row["bar"])})</text>'


def overhead_table(overhead: dict[str, Any]) -> str:
    rows = [
        (row["name"], row["bar"] or "-", f"{shown(row['value'])} {row['unit']}".strip(), _word(row["met"]))
        for row in overhead.get("figures", [])
    ]
    return _table(("figure", "bar", "measured", "met"), rows)


def _word(met: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[met]


def gpu_table(gpu: dict[str, Any]) -> str:
    """The rows of benchmarks/gpu.py, or that there are none."""
    if not gpu.get("rows"):
        return (
            "Not measured: no accelerator was at hand. `venv/bin/python benchmarks/gpu.py` fills this table on one.\n"
        )
    keys = ("seconds", "step_seconds", "peak", "error")
    rows = [
        (row["model"], row["option"], *(shown(row[key]) for key in keys), row["note"] or "-") for row in gpu["rows"]
    ]
    head = ("model", "option", "seconds", "a step", "peak GiB", "error", "note")
    return f"On {gpu['card']}:\n\n{_table(head, rows)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def page(text: str) -> str:
    """The page with its generated parts made anew."""
    parts = {"overhead": overhead_table(results("overhead")), "gpu": gpu_table(results("gpu"))}
    for name, made in parts.items():
        text = re.sub(
            rf"(?s)(<!-- {name} -->\n).*?(<!-- end -->)", lambda found, made=made: found[1] + made + found[2], text
        )
    return text


def main() -> None:
    CHART.write_text(chart(results("overhead")), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
