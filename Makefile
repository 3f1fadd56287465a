# make demo | test | lint | bench | bench-check | native | sanitize      (Debian: python3 with venv and headers, g++, make)
PYTHON ?= python3
VENV ?= .venv
CUDA ?= AUTO
BENCH_SECONDS ?= 0.5

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
SOURCES := pyproject.toml CMakeLists.txt LICENSE $(shell find csrc python -type f \
	! -name '*.so' ! -name '*.pyc')
NATIVE_SOURCES := $(shell find csrc tests/native -name '*.cpp' -o -name '*.h' -o -name '*.cu' \
	-o -name '*.cuh')
CMAKE_FLAGS := -G Ninja -DSMOACS_WERROR=ON -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja

.PHONY: demo test lint bench bench-check native sanitize clean

demo: $(VENV)/.demo
	$(BIN)/smoacs design perovskite --band-gap 2.5 --seed 0 --out runs/demo --force

test: $(VENV)/.test
	$(BIN)/python -P -m pytest

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(NATIVE_SOURCES)

# Measure everything beside the peers, on an idle machine; writes the record and docs/benchmarks.md.
bench: $(VENV)/.bench
	$(BIN)/python -P -m pytest bench --record=bench/results/speed --benchmark-columns=min,rounds
	$(BIN)/python bench/report.py

# Fail if a part has lost more than 20 % to the reference that was timed beside it.
bench-check: $(VENV)/.test
	$(BIN)/python -P -m pytest bench -m guard --check --seconds=$(BENCH_SECONDS)

# Development build: the compiled module beside its Python sources (PYTHONPATH=python).
native: $(VENV)/.native
	$(BIN)/cmake -S . -B build/dev $(CMAKE_FLAGS) -DSMOACS_CUDA=$(CUDA) \
		-DPython_EXECUTABLE=$(abspath $(BIN))/python \
		-Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build build/dev
	PYTHONPATH=build/dev $(BIN)/python -c 'import _native'
	$(BIN)/cmake --install build/dev --prefix python

# C++ unit tests, CUDA kernels included, under the address and undefined-behaviour sanitizers.
sanitize: $(VENV)/.native
	$(BIN)/cmake -S . -B build/sanitize $(CMAKE_FLAGS) -DSMOACS_CUDA=OFF -DSMOACS_PYTHON=OFF \
		-DSMOACS_TESTS=ON -DSMOACS_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize
	$(BIN)/ctest --test-dir build/sanitize --output-on-failure

clean:
	rm -rf build dist python/smoacs/_native*.so

# --- Stamps: what has been installed into the environment -------------------------------------
$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	touch $@

$(VENV)/.demo: $(VENV)/.venv constraints.txt $(SOURCES)
	$(PIP) install --quiet --constraint constraints.txt .
	touch $@

$(VENV)/.test: $(VENV)/.venv constraints.txt $(SOURCES)
	$(PIP) install --quiet --constraint constraints.txt \
		--config-settings cmake.define.SMOACS_WERROR=ON '.[test]'
	touch $@

$(VENV)/.bench: $(VENV)/.venv constraints.txt $(SOURCES)
	$(PIP) install --quiet --constraint constraints.txt '.[bench]'
	touch $@

$(VENV)/.lint: $(VENV)/.venv constraints.txt pyproject.toml
	$(PIP) install --quiet --constraint constraints.txt --group lint
	touch $@

$(VENV)/.native: $(VENV)/.venv constraints.txt pyproject.toml
	$(PIP) install --quiet --constraint constraints.txt --group native
	touch $@
