# SPDX-License-Identifier: MIT
"""docs/performance.md and its chart show what the benchmarks kept, and the benchmark for GPUs runs."""

from __future__ import annotations

import json
import unittest
import xml.etree.ElementTree

from benchmarks import chart, gpu
from tests.support import spec_of


class PageTest(unittest.TestCase):
    def test_the_chart_and_the_tables_are_those_of_the_results(self) -> None:
        told = "venv/bin/python benchmarks/chart.py writes them"
        page = chart.PAGE.read_text(encoding="utf-8")
        self.assertEqual(page, chart.page(page), told)
        overhead = chart.results("overhead")
        self.assertEqual(chart.CHART.read_text(encoding="utf-8"), chart.chart(overhead), told)
        for row in overhead["figures"]:
            self.assertIn(f"| {row['name']} | {row['bar'] or '-'} |", page)

    def test_the_chart_is_a_picture(self) -> None:
        root = xml.etree.ElementTree.fromstring(chart.CHART.read_text(encoding="utf-8"))
        self.assertTrue(root.tag.endswith("svg"))

    def test_without_a_run_on_a_gpu_there_is_no_figure(self) -> None:
        self.assertIn("Not measured", chart.gpu_table({}))
        row = {"model": "flux", "option": "plain", "seconds": 2.5, "step_seconds": 0.1, "peak": None, "error": None}
        made = chart.gpu_table({"card": "a card", "rows": [{**row, "note": ""}]})
        self.assertIn("| flux | plain | 2.5 | 0.1 | - | - | - |", made)


class GpuTest(unittest.TestCase):
    def test_every_row_says_options_that_there_are(self) -> None:
        for options in gpu.ROWS.values():
            self.assertEqual(spec_of("owner/name", Options=list(options)).call_arguments, {})

    def test_a_toy_runs_with_its_option_and_one_that_is_refused_says_why(self) -> None:
        rows = list(gpu.rows(["sd15"], ["plain", "vae_tiling", "cache:first_block"], toy=True, device="cpu"))
        self.assertEqual([row.option for row in rows], ["plain", "vae_tiling", "cache:first_block"])
        self.assertTrue(all(row.seconds for row in rows[:2]), rows)
        self.assertEqual((rows[1].error, rows[0].peak), (0.0, None), "in tiles it is the same picture at this size")
        self.assertIn("opens no cache context", rows[2].note)

    def test_every_architecture_is_at_its_full_size(self) -> None:
        for name in gpu.MODELS:
            full, toy = gpu.config_of(name, toy=False), gpu.config_of(name, toy=True)
            self.assertEqual(full["components"].keys(), toy["components"].keys())
            self.assertGreater(len(json.dumps(full)), 500)


if __name__ == "__main__":
    unittest.main()
