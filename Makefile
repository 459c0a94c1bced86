# The names that LocalAI's own Makefile and CI call, and `demo` for a first look.

.PHONY: diffusers run test demo protogen protogen-clean clean

diffusers:
	bash install.sh

run: diffusers
	bash run.sh

# pytest and `python -m unittest test.py` (bash test.sh) run the same tests
test:
	bash install.sh requirements-test.txt
	venv/bin/python -m pytest

# Installs what is missing, then draws with the small model of this repository through a real server
demo: diffusers
	venv/bin/python -m localai_diffusers.cli demo --output demo.png

protogen:
	bash protogen.sh

protogen-clean:
	$(RM) backend_pb2.py backend_pb2_grpc.py

clean: protogen-clean
	$(RM) -r venv .pytest_cache .hypothesis demo.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
