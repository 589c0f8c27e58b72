# Two commands for newcomers: `make demo` and `make test`. Both set up what they need in .venv;
# the demo needs no torch.

PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin

SOURCES := pyproject.toml CMakeLists.txt LICENSE README.md \
           $(shell find runtime export calibration csrc miniature/bundle -type f -not -name '*.pyc')
CXX_SOURCES := $(shell find csrc tests/csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: demo test latency lint types ctest cuda pytest stubs format clean setup build/view

demo: $(VENV)/run.stamp
	$(BIN)/omni-rt demo --out demo

test: lint types stubs ctest cuda pytest

# Against this device's baseline, on an otherwise idle machine; no part of `make test`.
latency: $(VENV)/run.stamp
	$(BIN)/omni-rt bench miniature/bundle --runs 20 --against tests/latency

# The wheel is built while torch is being installed; byte code is compiled on demand.
setup:
	@$(MAKE) --no-print-directory -j2 $(VENV)/torch.stamp build/wheel.stamp
	@$(MAKE) --no-print-directory $(VENV)/export.stamp

$(VENV)/venv.stamp:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run.stamp: build/wheel.stamp
	$(BIN)/pip install -q --no-compile "omni_rt[video] @ file://$$(ls $(CURDIR)/build/wheel/*.whl)"
	$(BIN)/pip install -q --no-compile --no-deps --force-reinstall build/wheel/*.whl
	touch $@

$(VENV)/torch.stamp: $(VENV)/venv.stamp
	$(BIN)/pip install -q --no-compile $(TORCH)
	touch $@

build/wheel.stamp: $(VENV)/venv.stamp $(SOURCES)
	rm -rf build/wheel
	$(BIN)/pip wheel -q --no-deps --wheel-dir build/wheel .
	touch $@

$(VENV)/export.stamp: $(VENV)/torch.stamp build/wheel.stamp
	$(BIN)/pip install -q --no-compile "omni_rt[export] @ file://$$(ls $(CURDIR)/build/wheel/*.whl)"
	$(BIN)/pip install -q --no-compile --no-deps --force-reinstall build/wheel/*.whl
	touch $@

$(VENV)/dev.stamp: pyproject.toml
	@$(MAKE) --no-print-directory setup
	$(BIN)/pip install -q --no-compile "omni_rt[dev] @ file://$$(ls $(CURDIR)/build/wheel/*.whl)"
	touch $@

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

# Static tools read the package as it is installed: folders mapped to omni_rt.
build/view:
	mkdir -p build/view/omni_rt
	for f in runtime/*; do ln -sfn $(CURDIR)/$$f build/view/omni_rt/; done
	ln -sfn $(CURDIR)/export $(CURDIR)/calibration build/view/omni_rt/

types: $(VENV)/dev.stamp build/view
	MYPYPATH=build/view $(BIN)/mypy -p omni_rt
	PYTHONPATH=build/view $(BIN)/lint-imports

stubs: $(VENV)/dev.stamp
	@$(MAKE) --no-print-directory setup
	$(BIN)/pybind11-stubgen omni_rt._core --output-dir build/stubs
	diff build/stubs/omni_rt/_core.pyi runtime/_core.pyi

TEST_BUILD = -DOMNI_RT_TESTS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
    -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)

ctest: $(VENV)/dev.stamp
	$(BIN)/cmake -S . -B build/ctest $(TEST_BUILD)
	$(BIN)/cmake --build build/ctest --parallel 2
	$(BIN)/ctest --test-dir build/ctest --output-on-failure

# Kernels for every architecture, the module omni_rt._cuda, and its test where there is a GPU.
cuda: $(VENV)/dev.stamp
ifeq ($(shell command -v nvcc),)
	@echo "SKIPPED: no nvcc on this machine, the CUDA loop is not compiled"
else
	$(BIN)/cmake -S . -B build/cuda -DOMNI_RT_CUDA=ON $(TEST_BUILD)
	$(BIN)/cmake --build build/cuda --parallel 2 --target _cuda cuda_step_test
	$(BIN)/ctest --test-dir build/cuda --output-on-failure --tests-regex cuda_step
	PYTHONPATH=build/cuda $(BIN)/pybind11-stubgen _cuda --output-dir build/stubs
	diff build/stubs/_cuda.pyi runtime/_cuda.pyi
endif

pytest: $(VENV)/dev.stamp
	@$(MAKE) --no-print-directory setup
	$(BIN)/python -m pytest

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

clean:
	rm -rf build demo $(VENV)
