# SPDX-License-Identifier: MIT
# The names that LocalAI's own Makefile and CI call, `demo` for a first look, and a maintainer's day.

# LocalAI calls `make` alone for the install
.DEFAULT_GOAL := diffusers

.PHONY: help diffusers run demo bench test test-quick test-processors test-next lint types format coverage tools \
	protogen protogen-clean clean

PYTEST = venv/bin/python -m pytest
PARALLEL = -n auto --dist worksteal  # whole runs of neighbors stay in one process, and with them what it has loaded

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

diffusers: ## install the backend into ./venv (BUILD_TYPE=cuda for an accelerator)
	bash install.sh

run: diffusers ## start the backend
	bash run.sh

demo: diffusers ## draw with the small model of this repository through a real server: demo.png
	venv/bin/python -m localai_diffusers demo --output demo.png

bench: tools ## what the server costs beside plain diffusers, in one table: benchmarks/results/overhead.json
	venv/bin/python benchmarks/overhead.py $(BENCH)

tools:
	@bash install.sh requirements-test.txt

# pytest and `python -m unittest test.py` (bash test.sh) run the same tests
test: tools ## all tests
	$(PYTEST) $(PARALLEL) $(TESTS)

test-quick: tools ## the tests without whole servers and without every pipeline of diffusers: two minutes
	$(PYTEST) $(PARALLEL) -m "not heavy" $(TESTS)

test-processors: tools ## all tests as on other processors (ONLY=sse41|avx2|compatible|threads|rounding, TESTS=folder)
	bash scripts/test-processors.sh $(ONLY) -- $(PARALLEL) $(TESTS)

test-next: tools ## all tests with the newest diffusers and transformers: it may fail, and says of what
	bash scripts/test-next.sh $(TESTS)

lint: tools ## ruff's rules, its format, and the direction of imports
	venv/bin/ruff check .
	venv/bin/ruff format --check .
	PYTHONPATH=. venv/bin/lint-imports

format: tools ## write the code as ruff formats it
	venv/bin/ruff check --fix .
	venv/bin/ruff format .

types: tools ## mypy
	venv/bin/python -m grpc_tools.protoc -I. --pyi_out=. backend.proto
	venv/bin/mypy

coverage: tools ## which lines the tests run, with a report in htmlcov/
	$(PYTEST) $(PARALLEL) --cov --cov-report=term-missing:skip-covered --cov-report=html $(TESTS)

protogen: ## generate the gRPC stubs anew
	bash protogen.sh

protogen-clean:
	$(RM) backend_pb2.py backend_pb2_grpc.py backend_pb2.pyi

clean: protogen-clean ## remove all that is generated or installed
	$(RM) -r venv venv-next .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov demo.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
