# SPDX-License-Identifier: MIT
"""Files, words and sequences of people: scripts that build an input, run it on the product, and compare with a reference.

Each prints ``NN PASS`` or ``NN FAIL`` with its figures: ``PYTHONPATH=. venv/bin/python tests/cases/NAME.py``. They are
examples of kinds; the tests of the packages hold the rest of each kind. ``test_cases`` runs all.
"""
