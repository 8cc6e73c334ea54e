# make demo, check, coverage, test, up, doctor, bench, build, docs, lint: CONTRIBUTING.md says what each does.
# ROS=jazzy uses the Jazzy wheels in an environment of their own; PYTHON names the Python that environments are made of.
ROS ?= kilted
PYTHON ?= python3

environment := .venv$(if $(filter-out kilted,$(ROS)),-$(ROS))
bin := $(CURDIR)/$(environment)/bin

# A ROS 2 that this shell has sourced, or an activated environment, must not leak into ours.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
unexport ROS_DISTRO RMW_IMPLEMENTATION VIRTUAL_ENV _ROS_WHEELS_BOOTSTRAP_COMPLETE
# Containers set it. Without it, Jazzy's tests find the assertions that pytest has rewritten for Kilted's.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo check coverage test up doctor bench build docs lint check-tools test-tools

demo: build
	@$(bin)/qwen3vl-ros demo

up: build
	@$(bin)/qwen3vl-ros demo --keep

bench:
	@$(PYTHON) scripts/set_up.py $(environment) --ros $(ROS) --tests --bench
	@$(bin)/python benchmark/run.py

build:
	@$(PYTHON) scripts/set_up.py $(environment) --ros $(ROS)

test-tools:
	@$(PYTHON) scripts/set_up.py $(environment) --ros $(ROS) --tests

check-tools:
	@$(PYTHON) scripts/set_up.py $(environment) --ros $(ROS) --check

docs: check-tools
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build

lint: check-tools
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy

# One process more than there are cores, as many tests wait for something.
processes = $$(($$(nproc) + 1))

check: lint
	$(bin)/pytest --check -n $(processes) --dist worksteal

coverage: check-tools
	$(bin)/pytest --check -n auto --cov qwen3vl_ros --cov-report term:skip-covered

# Each process has a ROS graph of its own, and the files come in the order of test/conftest.py, which has the longest
# first; pytest-xdist would begin with those of the most tests. Jazzy: what tests something about ROS. THOROUGH=1:
# all examples of the property-based tests, not a quarter. Jazzy's Fast DDS, with more processes than cores, had trouble
# with its shared-memory ports, which it prints to stdout.
test_options = --dist loadfile --no-loadscope-reorder $(if $(THOROUGH),--thorough)

ifeq ($(ROS),kilted)
test: test-tools lint
	$(bin)/pytest -n $(processes) $(test_options)
else
test: test-tools
	$(bin)/pytest -n auto $(test_options) -m "ros and not browser and not once"
endif

doctor:
	@if [ -x $(bin)/qwen3vl-ros ]; then $(bin)/qwen3vl-ros doctor; else $(PYTHON) -m qwen3vl_ros.cli.doctor; fi
