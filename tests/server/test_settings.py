# SPDX-License-Identifier: MIT
"""Environment variables: read once, typed, refused with a message that names them."""

from __future__ import annotations

import os
import unittest
from pathlib import Path
from unittest import mock

from localai_diffusers.settings import VARIABLES, Settings
from tests.support import HOME


class SettingsTest(unittest.TestCase):
    def test_an_empty_environment_gives_the_defaults(self) -> None:
        self.assertEqual(Settings.from_environ({}), Settings())

    def test_an_empty_value_means_unset(self) -> None:
        self.assertEqual(Settings.from_environ({row.name: "" for row in VARIABLES}), Settings())

    def test_every_row_fills_its_field(self) -> None:
        values = {
            "LOCALAI_DIFFUSERS_LOG_LEVEL": "error",
            "LOCALAI_DIFFUSERS_METADATA": "OFF",
            "LOCALAI_DIFFUSERS_LOG_FORMAT": "json",
            "LOCALAI_DIFFUSERS_METRICS_ADDR": "0.0.0.0:9100",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "SAFETENSORS": "0",
            "CLIPSKIP": "0",
            "LOCALAI_DIFFUSERS_AUTO": "0",
            "LOCALAI_BACKEND_PARENT_WATCH": "0",
        }
        default = Settings()
        for row in VARIABLES:
            texts = {bool: "1", int: "3", float: "1.5", str: "cuda:1", type(None): "3"}
            kind = type(getattr(default, row.field))
            changed = getattr(Settings.from_environ({row.name: values.get(row.name, texts[kind])}), row.field)
            self.assertNotEqual(changed, getattr(default, row.field), row.name)
            self.assertIs(type(changed), int if kind is type(None) else kind, row.name)

    def test_the_incumbents_variables_are_all_there(self) -> None:
        names = {row.name for row in VARIABLES}
        self.assertLessEqual(
            {
                "COMPEL",
                "SD_EMBED",
                "XPU",
                "CLIPSKIP",
                "SAFETENSORS",
                "CHUNK_SIZE",
                "FPS",
                "FRAMES",
                "DISABLE_CPU_OFFLOAD",
                "BFL_REPO",
                "PYTHON_GRPC_MAX_WORKERS",
            },
            names,
        )

    def test_a_bad_value_is_refused_with_its_name_and_value(self) -> None:
        for name, value in (
            ("PYTHON_GRPC_MAX_WORKERS", "many"),
            ("LOCALAI_DIFFUSERS_MAX_QUEUE", "0"),
            ("CLIPSKIP", "maybe"),
            ("LOCALAI_DIFFUSERS_LOG_LEVEL", "LOUD"),
            ("LOCALAI_BACKEND_PARENT_WATCH_INTERVAL", "nan"),
        ):
            with self.assertRaisesRegex(ValueError, f"{name}='{value}'"):
                Settings.from_environ({name: value})

    def test_flags_take_the_usual_words(self) -> None:
        for text, expected in (
            ("1", True),
            ("true", True),
            ("YES", True),
            ("on", True),
            ("0", False),
            ("False", False),
            ("off", False),
        ):
            self.assertIs(Settings.from_environ({"COMPEL": text}).compel, expected)

    def test_without_a_mapping_the_process_environment_is_read(self) -> None:
        with mock.patch.dict(os.environ, {"CHUNK_SIZE": "5"}):
            self.assertEqual(Settings.from_environ().chunk_size, 5)

    def test_settings_cannot_be_changed(self) -> None:
        with self.assertRaises(AttributeError):
            Settings().fps = 1  # type: ignore[misc]

    def test_no_other_room_reads_the_environment(self) -> None:
        """One place for all variables: what they mean must not depend on when a room reads them."""
        readers = [
            path.name
            for path in Path(HOME, "localai_diffusers").rglob("*.py")
            if "os.environ.get" in path.read_text() or "os.getenv" in path.read_text()
        ]
        self.assertEqual(readers, [])


if __name__ == "__main__":
    unittest.main()
