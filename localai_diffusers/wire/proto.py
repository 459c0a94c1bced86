# SPDX-License-Identifier: MIT
"""Messages of whatever backend.proto the stubs were made from: ours, or the core's, older or newer.

In LocalAI's tree and images the core's file is compiled. A field is read or set only where the generated class has it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

FACTS_KEY = "x-model-facts-bin"  # trailing metadata of a load: what was loaded, as JSON


def value_of(message: Any, field: str, default: Any) -> Any:
    """The value of ``field``, ``default`` where these stubs do not know it."""
    return getattr(message, field, default)


def made(kind: Any, **fields: Any) -> Any:
    """A message of the generated class ``kind`` with those of ``fields`` that it has."""
    return kind(**{name: value for name, value in fields.items() if name in kind.DESCRIPTOR.fields_by_name})


def as_json(facts: Mapping[str, Any]) -> bytes:
    """``Result.metadata``: JSON bytes."""
    return json.dumps(facts, ensure_ascii=False).encode()


def as_text(message: Any, without: Collection[str] = ()) -> str:
    """The fields of a message that are set, by their own names, as JSON; "" for what is no message."""
    if not hasattr(message, "DESCRIPTOR"):
        return ""
    said = MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps({name: value for name, value in said.items() if name not in without}, ensure_ascii=False)
