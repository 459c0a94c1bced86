# SPDX-License-Identifier: MIT
"""The files and commands around the backend: install.sh, run.sh, test.sh, the Makefile and the requirements.

The scripts run for real, in a copy of the tree; what stands in are the interpreter (a script that notes what
it is asked) and LocalAI's libbackend.sh (likewise), so that no test downloads anything.
"""

import ast
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
_LICENSE = "# SPDX-License-Identifier: MIT"
SCRIPTS = ("env.sh", "install.sh", "run.sh", "test.sh", "protogen.sh")
PROFILES = ("cpu", "cuda", "mps", "cublas12", "cublas13", "hipblas", "intel", "l4t13")
OURS = (
    "PYTHON",
    "PYTHON_VERSION",
    "PYTHON_PATCH",
    "PY_STANDALONE_TAG",
    "BUILD_TYPE",
    "CUDA_MAJOR_VERSION",
    "USE_PIP",
    "LOCALAI_DIFFUSERS_DISK_GB",
    "XPU",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "MAKEFLAGS",
)

# Plays python: says it is $FAKE_VERSION, makes "virtual environments" of itself, notes every call in $RECORD.
FAKE_PYTHON = r"""#!/usr/bin/env bash
echo "ppid=$PPID mps=${PYTORCH_ENABLE_MPS_FALLBACK:-} python $*" >> "$RECORD"
case "$*" in
  *sys.version_info*) echo "${FAKE_VERSION:-3.11}" ;;
  *ensurepip*) exit "${FAKE_NO_VENV:-0}" ;;
  "-m venv --clear "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; touch "$4/made" ;;
  "-m pip "*) echo "${FAKE_PIP_SAYS:-done}"; exit "${FAKE_PIP_CODE:-0}" ;;
  "-m grpc_tools.protoc "*) touch backend_pb2.py backend_pb2_grpc.py ;;
  "-B -c import backend_pb2"*) exit "${FAKE_STUBS_CODE:-0}" ;;
  "- "*) exec "$REAL_PYTHON" "$@" ;;
esac
"""

# Plays LocalAI's library: the names and defaults it has, and a note of every call.
FAKE_LIBBACKEND = r"""
PYTHON_VERSION="${PYTHON_VERSION:-3.10}"
PYTHON_PATCH="${PYTHON_PATCH:-18}"
BUILD_PROFILE="${BUILD_TYPE:-cpu}${CUDA_MAJOR_VERSION:-}"
note() { echo "$* version=$PYTHON_VERSION.$PYTHON_PATCH flags=${EXTRA_PIP_INSTALL_FLAGS:-}" >> "$RECORD"; }
ensureVenv() { note ensureVenv; PATH="$FAKE_BIN:$PATH"; }
runProtogen() { note runProtogen; }
installRequirements() { note installRequirements; runProtogen; }
startBackend() { note "startBackend $*"; exit 0; }
runUnittests() { note runUnittests; }
"""


class Tree:
    """A copy of the repository's scripts in a temporary folder, with a fake python on the PATH."""

    def __init__(self, case: unittest.TestCase, in_localai: bool = False) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="pack age "))  # with a space, as in a home folder
        case.addCleanup(shutil.rmtree, self.top)
        self.home = self.top / "backend" / "python" / "diffusers"
        self.record = self.top / "record"
        self.bin = self.top / "bin"
        self._copy_scripts()
        self._make_tools()
        if in_localai:
            (self.home.parent / "common").mkdir()
            (self.home.parent / "common" / "libbackend.sh").write_text(FAKE_LIBBACKEND)

    def _copy_scripts(self) -> None:
        self.home.mkdir(parents=True)
        for source in [*map(ROOT.joinpath, SCRIPTS), ROOT / "backend.proto", *ROOT.glob("requirements*.txt")]:
            shutil.copy(source, self.home)
        (self.home / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "localai-diffusers", self.home / "scripts")
        self.set_cpu_index("http://127.0.0.1:9/whl")  # the discard port: refused at once

    def _make_tools(self) -> None:
        self.bin.mkdir()
        self.add_tool("python3.11", FAKE_PYTHON)
        self.add_tool("python", FAKE_PYTHON)
        self.add_tool("uv", '#!/usr/bin/env bash\necho "uv $*" >> "$RECORD"\n')

    def add_tool(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def set_cpu_index(self, url: str) -> None:
        path = self.home / "requirements-cpu-pytorch.txt"
        path.write_text(re.sub(r"(?m)^--extra-index-url .*$", f"--extra-index-url {url}", path.read_text()))

    def run(self, *command: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """`bash <command>` with a clean environment plus `env`; command[0] is a script of the tree."""
        base = {key: value for key, value in os.environ.items() if key not in OURS}
        tools = {
            "PATH": f"{self.bin}:{base['PATH']}",
            "RECORD": str(self.record),
            "FAKE_BIN": str(self.bin),
            "REAL_PYTHON": sys.executable,
        }
        return subprocess.run(
            ["bash", str(self.home / command[0]), *command[1:]],
            cwd=cwd or self.top,
            env=base | tools | env,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def calls(self, word: str) -> list[str]:
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [line for line in lines if word in line]


class InstallAlone(unittest.TestCase):
    def setUp(self) -> None:
        self.tree = Tree(self)

    def refused(self, *words: str, **env: str) -> None:
        done = self.tree.run("install.sh", **env)
        self.assertNotEqual(done.returncode, 0)
        last = done.stderr.strip().splitlines()[-1]
        for word in ("install.sh: ", *words):
            self.assertIn(word, last)

    def test_an_old_python_is_refused_with_its_version(self) -> None:
        old = str(self.tree.bin / "python")
        self.refused("3.11 or newer", f"{old} is 3.9", "PYTHON=", PYTHON=old, FAKE_VERSION="3.9")

    def test_a_missing_python_is_refused_by_name(self) -> None:
        self.refused("no-such-python does not run", PYTHON="no-such-python")

    def test_a_python_without_venv_names_the_package(self) -> None:
        self.refused("python3.11-venv", PYTHON=str(self.tree.bin / "python"), FAKE_NO_VENV="1")

    def test_a_full_disk_is_refused_before_anything_is_made(self) -> None:
        self.tree.add_tool("df", "#!/bin/sh\necho head\necho /dev/x 9999999 9999999 2097152 99% /\n")
        self.refused("not enough room", "2 GB free", "about 4 GB", "LOCALAI_DIFFUSERS_DISK_GB")
        self.assertFalse((self.tree.home / "venv").exists())

    def test_the_room_asked_for_can_be_set(self) -> None:
        self.tree.add_tool("df", "#!/bin/sh\necho head\necho /dev/x 9999999 9999999 2097152 99% /\n")
        self.assertEqual(self.tree.run("install.sh", LOCALAI_DIFFUSERS_DISK_GB="0").returncode, 0)

    def test_no_network_is_called_that(self) -> None:
        said = "broken by 'NewConnectionError'"
        self.refused("no network", "PIP_INDEX_URL", FAKE_PIP_CODE="1", FAKE_PIP_SAYS=said)

    def test_a_disk_that_fills_up_is_called_that(self) -> None:
        self.refused("the disk is full", FAKE_PIP_CODE="1", FAKE_PIP_SAYS="OSError: No space left on device")

    def test_stubs_that_do_not_import_end_the_installation(self) -> None:
        self.refused("stubs don't import", FAKE_STUBS_CODE="1")
        self.assertFalse((self.tree.home / "backend_pb2.py").exists())

    def test_the_jetson_profile_with_old_wheels_stays_with_the_incumbent(self) -> None:
        for env in ({"BUILD_TYPE": "l4t", "CUDA_MAJOR_VERSION": "12"}, {"BUILD_TYPE": "l4t12"}):
            with self.subTest(env):
                self.refused("l4t12", "3.10", "LocalAI's own diffusers backend", **env)

    def test_an_unknown_profile_lists_the_known_ones(self) -> None:
        self.refused("BUILD_TYPE='vulkan'", *PROFILES, BUILD_TYPE="vulkan")

    def test_one_pip_call_sees_every_file(self) -> None:
        self.assertEqual(self.tree.run("install.sh").returncode, 0)
        (call,) = self.tree.calls("-m pip install")
        self.assertIn("-r requirements.txt -r requirements-cpu.txt", call)

    def test_localais_build_types_choose_the_file(self) -> None:
        self.tree.run("install.sh", BUILD_TYPE="cublas", CUDA_MAJOR_VERSION="12")
        (call,) = self.tree.calls("-m pip install")
        self.assertIn("-r requirements-cublas12.txt", call)

    def test_extra_files_are_installed_with_the_rest(self) -> None:
        self.tree.run("install.sh", "requirements-test.txt")
        (call,) = self.tree.calls("-m pip install")
        self.assertTrue(call.endswith("-r requirements-test.txt"), call)

    def test_an_argument_that_is_no_file_changes_nothing(self) -> None:
        done = self.tree.run("install.sh", "--help")
        self.assertIn("no --help in", done.stderr)
        self.assertEqual(self.tree.calls("-m venv"), [])

    def test_a_second_run_does_nothing(self) -> None:
        self.tree.run("install.sh", "requirements-test.txt")
        for arguments in ((), ("requirements-test.txt",)):
            self.assertIn("already installed", self.tree.run("install.sh", *arguments).stdout)
        self.assertEqual(len(self.tree.calls("-m pip install")), 1)

    def test_a_changed_requirement_or_a_lost_stub_installs_again(self) -> None:
        self.tree.run("install.sh")
        with (self.tree.home / "requirements.txt").open("a") as file:
            file.write("# changed\n")
        self.tree.run("install.sh")
        (self.tree.home / "backend_pb2.py").unlink()
        self.tree.run("install.sh")
        self.assertEqual(len(self.tree.calls("-m pip install")), 3)
        self.assertEqual(len(self.tree.calls("-m venv")), 1)

    def test_the_command_runs_from_any_folder_through_a_link_and_after_the_tree_moved(self) -> None:
        self.tree.run("install.sh")
        moved = self.tree.top / "moved tree"
        shutil.move(self.tree.home, moved)
        link = self.tree.bin / "localai-diffusers"
        link.symlink_to(moved / "venv" / "bin" / "localai-diffusers")
        player = moved / "venv" / "bin" / "python"
        player.write_text('#!/usr/bin/env bash\necho "$PYTHONPATH|$*"\n')
        done = subprocess.run([str(link), "info", "a b.png"], cwd="/", capture_output=True, text=True)
        tree, _, arguments = done.stdout.strip().partition("|")
        self.assertEqual(Path(tree.split(os.pathsep)[0]), moved.resolve(), done.stderr)
        self.assertEqual(arguments, "-m localai_diffusers info a b.png")

    def test_an_interrupted_installation_goes_on(self) -> None:
        self.tree.run("install.sh", FAKE_PIP_CODE="1")
        self.assertEqual(self.tree.run("install.sh").returncode, 0)
        self.assertEqual(len(self.tree.calls("-m venv")), 1)

    def test_another_profile_gets_a_new_environment(self) -> None:
        self.tree.run("install.sh")
        self.tree.run("install.sh", BUILD_TYPE="cuda")
        self.assertEqual(len(self.tree.calls("-m venv --clear")), 2)

    def test_an_environment_behind_a_link_is_never_cleared(self) -> None:
        elsewhere = self.tree.top / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "precious").touch()
        (self.tree.home / "venv").symlink_to(elsewhere)
        self.refused("is a link")
        self.assertTrue((elsewhere / "precious").exists())


class CpuIndex(unittest.TestCase):
    """PyTorch's own index of CPU builds is used where it answers, and costs nothing where it doesn't."""

    def setUp(self) -> None:
        self.tree = Tree(self)

    def serve(self) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/whl/cpu"

    @unittest.skipUnless(sys.platform == "linux", "only Linux has a CPU build of its own")
    def test_an_index_that_answers_is_used(self) -> None:
        self.tree.set_cpu_index(self.serve())
        self.tree.run("install.sh", no_proxy="127.0.0.1", NO_PROXY="127.0.0.1")
        (call,) = self.tree.calls("-m pip install")
        self.assertIn("-r requirements-cpu-pytorch.txt", call)

    def test_an_index_that_does_not_answer_is_left_out(self) -> None:
        self.tree.run("install.sh")
        (call,) = self.tree.calls("-m pip install")
        self.assertNotIn("cpu-pytorch", call)


class InLocalAI(unittest.TestCase):
    def setUp(self) -> None:
        self.tree = Tree(self, in_localai=True)

    def test_install_defers_with_a_python_that_diffusers_takes(self) -> None:
        self.assertEqual(self.tree.run("install.sh").returncode, 0)
        (call,) = self.tree.calls("installRequirements")
        self.assertIn("version=3.11.13", call)
        self.assertIn("--index-strategy=unsafe-best-match", call)
        self.assertEqual(self.tree.calls("-m pip"), [])

    def test_the_library_may_be_inside_as_in_an_image(self) -> None:
        shutil.move(self.tree.home.parent / "common", self.tree.home / "common")
        self.tree.run("install.sh")
        self.assertEqual(len(self.tree.calls("installRequirements")), 1)

    def test_thor_gets_the_python_of_its_images(self) -> None:
        self.tree.run("install.sh", BUILD_TYPE="l4t", CUDA_MAJOR_VERSION="13")
        self.assertIn("version=3.12.12", self.tree.calls("installRequirements")[0])

    def test_a_python_chosen_outside_is_kept(self) -> None:
        self.tree.run("install.sh", PYTHON_VERSION="3.13", PYTHON_PATCH="7")
        self.assertIn("version=3.13.7", self.tree.calls("installRequirements")[0])

    def test_pip_gets_no_option_of_uv(self) -> None:
        self.tree.run("install.sh", USE_PIP="true")
        self.assertNotIn("--index-strategy", self.tree.calls("installRequirements")[0])

    def test_extra_files_are_installed_after(self) -> None:
        self.tree.run("install.sh", "requirements-test.txt")
        embed, call = self.tree.calls("uv pip install")
        self.assertIn("--no-deps", embed)
        self.assertIn("requirements-sd-embed.txt", embed)
        self.assertIn("requirements-test.txt", call)

    def test_sd_embed_comes_where_localais_own_backend_has_it(self) -> None:
        for build, there in ((("intel", ""), True), (("cublas", "13"), True), (("hipblas", ""), False)):
            tree = Tree(self, in_localai=True)
            tree.run("install.sh", BUILD_TYPE=build[0], CUDA_MAJOR_VERSION=build[1])
            self.assertEqual(bool(tree.calls("requirements-sd-embed.txt")), there, build)

    def test_the_old_jetson_profile_is_refused_here_too(self) -> None:
        done = self.tree.run("install.sh", BUILD_TYPE="l4t", CUDA_MAJOR_VERSION="12")
        self.assertIn("l4t12", done.stderr)
        self.assertEqual(self.tree.calls("installRequirements"), [])

    def test_a_source_checkouts_own_proto_is_the_one_that_is_compiled(self) -> None:
        tree = self.tree.home.parent.parent
        (tree / "backend.proto").write_text("not ours")
        self.assertEqual(self.tree.run("install.sh").returncode, 0)
        self.assertEqual(self.tree.calls("runProtogen"), [])
        (call,) = self.tree.calls("grpc_tools.protoc ")
        self.assertIn(f"{tree}/backend.proto", call)

    def test_run_needs_nothing_of_ours_beside_it(self) -> None:
        """LocalAI's own test of its Intel runtime copies run.sh, libbackend.sh and a stub of backend.py alone."""
        for path in self.tree.home.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "run.sh":
                path.unlink()
        self.assertEqual(self.tree.run("run.sh", "--addr", "127.0.0.1:1").returncode, 0)
        self.assertEqual(len(self.tree.calls("startBackend")), 1)

    def test_protogen_defers(self) -> None:
        self.assertEqual(self.tree.run("protogen.sh").returncode, 0)
        self.assertEqual(len(self.tree.calls("runProtogen")), 1)

    def test_run_defers_with_its_arguments(self) -> None:
        self.assertEqual(self.tree.run("run.sh", "--addr", "127.0.0.1:1").returncode, 0)
        (call,) = self.tree.calls("startBackend")
        self.assertIn("startBackend --addr 127.0.0.1:1 version=3.11", call)

    def test_test_defers(self) -> None:
        self.assertEqual(self.tree.run("test.sh").returncode, 0)
        self.assertEqual(len(self.tree.calls("runUnittests")), 1)


class Run(unittest.TestCase):
    def setUp(self) -> None:
        self.tree = Tree(self)

    def test_without_an_environment_the_last_line_says_what_to_do(self) -> None:
        done = self.tree.run("run.sh")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("not installed", done.stderr.splitlines()[-1])
        self.assertIn("install.sh first", done.stderr.splitlines()[-1])

    def test_python_replaces_the_shell(self) -> None:
        self.tree.run("install.sh")
        done = self.tree.run("run.sh", "--addr", "localhost:1", cwd=Path("/"))
        self.assertEqual(done.returncode, 0, done.stderr)
        (call,) = self.tree.calls("backend.py")
        self.assertTrue(call.startswith(f"ppid={os.getpid()} "), call)

    def test_the_arguments_and_the_fallback_of_apples_gpu_reach_python(self) -> None:
        self.tree.run("install.sh")
        self.tree.run("run.sh", "--addr", "a b:1")
        (call,) = self.tree.calls("backend.py")
        self.assertTrue(call.endswith("backend.py --addr a b:1"), call)
        self.assertIn("mps=1 ", call)


class Files(unittest.TestCase):
    def requirements(self, name: str) -> list[str]:
        """The lines of a requirements file that pip reads, with what it includes."""
        lines = [line.split(" #")[0].strip() for line in (ROOT / name).read_text().splitlines()]
        kept: list[str] = []
        for line in lines:
            if line.startswith("-r "):
                kept += self.requirements(line[3:])
            elif line and not line.startswith("#"):
                kept.append(line)
        return kept

    def tracked(self) -> list[Path]:
        command = ["git", "ls-files", "-co", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if names.returncode:
            self.skipTest("not a git checkout")
        return [path for path in map(ROOT.joinpath, names.stdout.splitlines()) if path.is_file()]

    def test_every_source_names_its_license(self) -> None:
        sources = [path for path in self.tracked() if path.suffix in (".py", ".sh") or path.name in ("Makefile", "run")]
        self.assertGreater(len(sources), 200)
        for path in sources:
            self.assertIn(_LICENSE, path.read_text(encoding="utf-8").splitlines()[:2], path)

    def test_continuous_integration_runs_every_check_and_pytest_last(self) -> None:
        commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
        self.assertEqual(commands, ["make clean", "make lint types", "make test"])

    def test_the_scripts_parse(self) -> None:
        for name in (*SCRIPTS, ".ci/run", "scripts/test-processors.sh", "scripts/test-next.sh"):
            done = subprocess.run(["bash", "-n", str(ROOT / name)], capture_output=True, text=True)
            self.assertEqual((name, done.returncode, done.stderr), (name, 0, ""))

    def test_the_commands_can_be_executed(self) -> None:
        scripts = ("scripts/test-processors.sh", "scripts/test-next.sh")
        for name in ("install.sh", "run.sh", "test.sh", "protogen.sh", ".ci/run", *scripts):
            self.assertTrue(os.access(ROOT / name, os.X_OK), name)

    def test_the_makefile_has_the_targets_that_localai_calls(self) -> None:
        listed = subprocess.run(["make", "-npq", "-C", str(ROOT)], capture_output=True, text=True).stdout
        for target in ("diffusers", "run", "test", "demo", "protogen", "protogen-clean", "clean"):
            self.assertIn(f"\n{target}:", listed)
        self.assertIn("\n.DEFAULT_GOAL := diffusers\n", listed)

    def test_every_profile_names_a_torch_and_the_shared_requirements(self) -> None:
        for profile in PROFILES:
            lines = self.requirements(f"requirements-{profile}.txt")
            self.assertEqual(len([line for line in lines if line.startswith("torch==2.13.0")]), 1, profile)
            self.assertIn("optimum-quanto==0.2.7", lines)

    def test_every_profile_but_cpu_has_the_torchvision_of_its_torch(self) -> None:
        for profile in PROFILES:
            lines = self.requirements(f"requirements-{profile}.txt")
            build = next(line for line in lines if line.startswith("torch==")).partition("+")[2]
            wanted = [] if profile == "cpu" else ["torchvision==0.28.0" + (f"+{build}" if build else "")]
            self.assertEqual([line for line in lines if line.startswith("torchvision")], wanted, profile)

    def test_a_build_named_in_full_comes_with_its_index(self) -> None:
        for path in ROOT.glob("requirements-*.txt"):
            lines = self.requirements(path.name)
            for line in [line for line in lines if line.startswith("torch==") and "+" in line]:
                index = "https://download.pytorch.org/whl/" + line.partition("+")[2]
                self.assertIn(f"--extra-index-url {index}", lines)

    def test_nothing_shared_brings_torch_before_the_accelerators_file(self) -> None:
        names = {re.split(r"[<>=@ ]", line)[0] for line in self.requirements("requirements.txt")}
        need_torch = {"torch", "torchvision", "accelerate", "peft", "optimum-quanto", "compel", "torchsde"}
        self.assertEqual(names & need_torch, set())

    def test_the_pair_that_must_move_together_is_pinned(self) -> None:
        lines = self.requirements("requirements.txt")
        self.assertIn("diffusers>=0.42.1,<0.43", lines)
        self.assertIn("transformers==5.23.*", lines)

    def test_the_tests_have_the_torchao_that_quantizes(self) -> None:
        torchao = [line for line in self.requirements("requirements-quantization.txt") if line.startswith("torchao")]
        self.assertEqual([line for line in self.requirements("requirements-test.txt") if line in torchao], torchao)
        self.assertEqual(len(torchao), 1)

    def test_no_other_package_index_is_named(self) -> None:
        hosts = re.compile(r"https?://[^\s\"'<>)]*(?:/simple|/whl)\b|pypi\.org|pythonhosted|anaconda\.org")
        kinds = {".txt", ".sh", ".toml", ".yml", ".yaml", ".md", ""}
        for path in [path for path in self.tracked() if path.suffix in kinds]:
            for found in hosts.findall(path.read_text(errors="replace")):
                known = found.startswith("https://download.pytorch.org/") and path.suffix == ".txt"
                self.assertTrue(known, (path, found))

    def test_generated_files_are_ignored(self) -> None:
        names = ["venv/x", "backend_pb2.py", "backend_pb2_grpc.py", "demo.png", "tests/__pycache__/x.pyc"]
        done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 128:
            self.skipTest("not a git checkout")
        self.assertEqual(done.stdout.split(), names)


class SameTests(unittest.TestCase):
    """pytest and LocalAI's `python -m unittest test.py` run the same tests."""

    def entry(self) -> ModuleType:
        """test.py by its path: by name it could be the standard library's own `test`."""
        spec = importlib.util.spec_from_file_location("localai_entry", ROOT / "test.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def names(self, suite: unittest.TestSuite) -> list[str]:
        nested = [self.names(part) if isinstance(part, unittest.TestSuite) else [part.id()] for part in suite]
        return [name for part in nested for name in part]

    def test_the_entry_finds_every_test_file(self) -> None:
        suite = self.entry().load_tests(unittest.TestLoader(), unittest.TestSuite(), None)
        found = {re.search(r"\btests\.[\w.]*?(test_\w+)", name)[1] for name in self.names(suite)}
        self.assertEqual(found, {path.stem for path in (ROOT / "tests").rglob("test_*.py")})

    def test_every_test_is_one_that_both_see(self) -> None:
        """unittest sees neither bare functions nor plain classes nor folders that are no packages."""
        for path in (ROOT / "tests").rglob("test_*.py"):
            self.assertTrue((path.parent / "__init__.py").exists(), path)
            for node in ast.parse(path.read_text()).body:
                bare = isinstance(node, ast.FunctionDef) and node.name.startswith("test")
                plain = isinstance(node, ast.ClassDef) and node.name.startswith("Test") and not node.bases
                self.assertFalse(bare or plain, f"{path.name}: {getattr(node, 'name', '')}")


if __name__ == "__main__":
    unittest.main()
