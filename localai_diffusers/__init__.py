# SPDX-License-Identifier: MIT
"""The rooms behind ``backend.py``: everything between a gRPC request and a file on disk.

Data walks straight through: request -> frozen dataclass -> pipeline -> payload -> file. Only ``backend.py`` and
``wire/`` know gRPC; only ``diffusers_dynamic_loader`` knows how diffusers lays out its modules.
"""
