# SPDX-License-Identifier: MIT
"""``serve``: the backend with a model loaded, for LocalAI's ``--external-grpc-backends`` or any other client."""

from __future__ import annotations

import argparse
from typing import Any

from localai_diffusers.cli import model_yaml, server
from localai_diffusers.cli.terminal import WRONG, Fault, say


def add(commands: Any) -> None:
    parser = commands.add_parser("serve", help="the backend with a model loaded, until Ctrl-C")
    parser.add_argument("model", metavar="MODEL_OR_YAML")
    parser.add_argument("--addr", default="127.0.0.1:50051", help="address to listen on (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    model = model_yaml.read(options.model)
    if model.faults:
        raise Fault(f"{options.model}: {'; '.join(model.faults)}", WRONG)
    with server.process_at(options.addr, verbose=True) as process:
        with server.connected(options.addr) as stub:
            server.load(stub, model.fields)
        say(f"{model.name} is served at {options.addr}; Ctrl-C ends it")
        try:
            return int(process.wait())
        except KeyboardInterrupt:
            return 0
