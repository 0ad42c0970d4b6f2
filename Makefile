# On a fresh machine `make test` and `make train` do everything: environment, install, work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Also pins what an isolated build environment installs.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: test long train docs pages bench peers audit-peers wheel oldest newest lint format clean

test: $(VENV)/installed $(VENV)/browser/chromium
	$(BIN)/python -m pytest -n auto -m "not long"

# Those that start many processes or heavy tools, fill memory, or try thousands of draws.
long: $(VENV)/installed
	$(BIN)/python -m pytest -n auto -m long

# A network on real data, then the same under three conventions with a drop of the learning rate.
train: $(VENV)/installed
	$(BIN)/sgdm train --overwrite
	$(BIN)/sgdm train --overwrite --conventions torch,caffe,nag

# The pages as HTML, in build/docs/html; a warning is an error.
docs: $(VENV)/installed
	$(BIN)/python -m sphinx --quiet --fresh-env --nitpicky --fail-on-warning --keep-going docs build/docs/html

# Writes what is generated of the pages again; a test compares.
pages: $(VENV)/installed
	$(BIN)/python tools/convention_pages.py
	$(BIN)/python tools/house_page.py
	$(BIN)/python tools/numerics_table.py
	$(BIN)/python tools/speed_table.py
	$(BIN)/python tools/scaling_page.py
	$(BIN)/python tools/line_links.py

# Every case beside torch's own ways to step; minutes, on a machine that does nothing else.
bench: $(VENV)/installed
	$(BIN)/sgdm bench --csv benchmarks/steps.csv --figure docs/images/bench.png

# Builds an environment for every framework and records what its optimizers do: an hour, gigabytes.
peers: $(VENV)/installed
	$(BIN)/python tools/record_trajectories.py

# What other optimizers really do, examined in an environment of their own: gigabytes, ten minutes.
audit-peers: $(VENV)/installed
	$(BIN)/python tools/audit_peers.py

# The sdist, the wheel that is built from it, and its tests without compiler, tools and source.
wheel: $(VENV)/installed
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist
	$(BIN)/python tools/try_wheel.py

# The tests with another torch than the pinned one, in build/: a gigabyte or two, ten minutes.
oldest: TORCH := torch==2.10.0
newest: TORCH := torch
oldest newest: $(VENV)/installed
	$(BIN)/python tools/other_torch.py build/$@ $(TORCH)
	build/$@/bin/python -m pytest -n auto $(addprefix --ignore=tests/,$(WITHOUT_TORCH))
# They need no torch, or what lies beside the Python of $(VENV): cmake, a browser.
WITHOUT_TORCH := test_build.py test_docs.py test_explorer_page.py test_native_sanitizers.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/line_links.py

$(VENV)/installed: pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*)
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("sgdm needs Python >= 3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[train,bench,test,lint]'
	touch $@

# What the explorer's page is tested in.
$(VENV)/browser/chromium: $(VENV)/installed tools/install_browser.py $(wildcard tools/browser/*)
	-$(BIN)/python tools/install_browser.py

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache .hypothesis
