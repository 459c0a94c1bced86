# SPDX-License-Identifier: MIT
"""The server runs on the stubs of the core's protos: that of August 2026, which ours agrees with, and a newer one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

from tests.support import HOME, SHAPES_MODEL, FolderCase, free_port

OURS = (HOME / "backend.proto").read_text(encoding="utf-8")
# A client of those stubs, in a process of its own: a process can hold one set of them.
CLIENT = """
import json, sys, time
sys.path.insert(0, {stubs!r})
import backend_pb2, backend_pb2_grpc, grpc
stub = backend_pb2_grpc.BackendStub(grpc.insecure_channel("127.0.0.1:{port}"))
stub.Health(backend_pb2.HealthMessage(), timeout=60, wait_for_ready=True)
options = backend_pb2.ModelOptions(Model={model!r}, ModelFile={model!r}, Options=["device:cpu"])
if "EnvVars" in backend_pb2.ModelOptions.DESCRIPTOR.fields_by_name:
    options.EnvVars["OF_THE_MODEL"] = "1"
loaded = stub.LoadModel(options, timeout=120)
made = stub.GenerateImage(backend_pb2.GenerateImageRequest(
    positive_prompt="a red circle", dst={dst!r}, width=64, height=64, step=2, seed=5), timeout=120)
print(json.dumps([loaded.success, made.message, getattr(made, "metadata", b"").decode()]))
"""


def newer() -> str:
    """Ours with the fields that the core's newest has."""
    text = re.sub(
        r"(message ModelOptions \{)",
        r"\1\n  map<string, string> EnvVars = 76;\n  string OriginalConfigFile = 77;",
        OURS,
    )
    return re.sub(r"(message Result \{)", r"\1\n  bytes metadata = 4;", text)


class ProtosTest(FolderCase):
    def served(self, proto: str) -> tuple[bool, str, str]:
        """LoadModel and one picture on the stubs of ``proto``: success, the message, and Result.metadata."""
        stubs, port = self.folder / "stubs", free_port()
        stubs.mkdir()
        (stubs / "backend.proto").write_text(proto, encoding="utf-8")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{stubs}"]
        command += [f"--python_out={stubs}", f"--grpc_python_out={stubs}", str(stubs / "backend.proto")]
        subprocess.run(command, check=True)
        code = f"import sys; sys.path[:0] = [{str(stubs)!r}, {str(HOME)!r}]; import backend; sys.exit(backend.main())"
        environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        address = f"127.0.0.1:{port}"
        with open(self.folder / "log", "w") as log:
            server = subprocess.Popen([sys.executable, "-c", code, "--addr", address], env=environ, stderr=log)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        dst = str(self.folder / "out.png")
        text = CLIENT.format(stubs=str(stubs), port=port, model=str(SHAPES_MODEL), dst=dst)
        asked = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=200)
        self.assertEqual(asked.returncode, 0, asked.stderr + (self.folder / "log").read_text())
        self.assertGreater(Path(dst).stat().st_size, 100)
        success, message, metadata = json.loads(asked.stdout)
        return success, message, metadata

    def test_newer(self) -> None:
        success, message, metadata = self.served(newer())
        self.assertTrue(success)
        facts = json.loads(metadata)
        self.assertEqual((facts["seed"], facts["size"], facts["steps"]), (5, "64x64", 2))
        self.assertIn("seed 5", message)

    def test_ours_which_has_the_fields_of_august(self) -> None:
        success, message, metadata = self.served(OURS)
        self.assertTrue(success)
        self.assertEqual(metadata, "")
        self.assertIn("seed 5", message)


if __name__ == "__main__":
    unittest.main()
