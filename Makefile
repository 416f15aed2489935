# Everything the platform can do. `make` alone lists it.
#
# Options are variables of make's command line: `make backup KIND=physical KEEP=7`. A command gets those that it takes,
# as flags (`make -n` shows them); a variable that merely exists in the environment changes nothing. Settings
# (.env.example explains them) may come from the command line, the environment or .env.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# --- The options of make's command line --------------------------------------------------------------------------

quote = '$(subst ','\'',$(1))'
on_command_line := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
# The value of an option, when it was given.
given = $(if $(filter $(1),$(on_command_line)),$(value $(1)))
# Of NAME:--flag, its two halves.
name_of = $(firstword $(subst :, ,$(1)))
flag_of = $(lastword $(subst :, ,$(1)))
names_of = $(foreach each,$($(1).values) $($(1).switches) $($(1).arguments) $($(1).words),$(call name_of,$(each)))

value_flag = $(if $(call given,$(call name_of,$(1))),$(call flag_of,$(1))=$(call quote,$(call given,$(call name_of,$(1)))))
switch_flag = $(call switch,$(call name_of,$(1)),$(call flag_of,$(1)),$(call given,$(call name_of,$(1))))
switch = $(if $(filter 1 true yes on,$(3)),$(2),$(if $(filter-out 0 false no off,$(3)),$(error $(1)=$(3): expected 1 or 0)))
argument = $(if $(call given,$(1)),-- $(call quote,$(call given,$(1))))
# What a target was given, as flags: for words (ARGS), the recipe itself says where they go.
flags = $(foreach each,$($(1).values),$(call value_flag,$(each))) \
    $(foreach each,$($(1).switches),$(call switch_flag,$(each))) \
    $(foreach each,$($(1).arguments),$(call argument,$(each)))

# The commands, their options and their texts, as `make reference` writes them.
include scripts/commands.mk

##@ Development
.PHONY: screenshots test test-unit test-all test-docker soak lint format lock pin-images sbom reference
screenshots: venv-dev ## Take the README's pictures of this checkout's pages (needs Chromium)
	@.venv/bin/python -m eds screenshots
test.words := ARGS JOBS
pytest = .venv/bin/python -m pytest
# Tests wait a lot for servers: three at a time keep two cores busy.
on_clusters = --numprocesses $(or $(call given,JOBS),3) --dist loadfile --no-loadscope-reorder
test: venv-dev ## Test the main job on real, throw-away servers, in minutes ## ARGS="-k import" JOBS=2
	@$(pytest) $(on_clusters) -m "not (proof or disaster or browser or bench)" $(call given,ARGS)
test-unit.words := ARGS
test-unit: venv-dev ## Run the tests that need no server, in seconds ## ARGS="-k settings"
	@$(pytest) tests/unit $(call given,ARGS)
test-all.words := ARGS JOBS
test-all: venv-dev ## Run all tests but those of Docker: also negative controls, crashes, recovery, browser; with coverage ## ARGS="-m proof" JOBS=2
	@$(pytest) $(on_clusters) --cov --cov-report=term:skip-covered $(call given,ARGS)
test-docker.words := ARGS JOBS
# They wait for containers most of the time. Each worker has a stack of its own.
test-docker: venv-dev ## Test the Docker runtime on throw-away stacks; needs an engine ## ARGS="-k network" JOBS=1
	@$(pytest) tests/docker --numprocesses $(or $(call given,JOBS),2) --dist loadfile --no-loadscope-reorder $(call given,ARGS)
soak.words := FOR RANDOM_SEED
soak: venv-dev ## Random changes, crashes and moving sources for as long as you like ## FOR=30m RANDOM_SEED=7
	@SOAK_FOR=$(call quote,$(call given,FOR)) RANDOM_SEED=$(call quote,$(call given,RANDOM_SEED)) .venv/bin/python -m pytest tests/integration/soak.py -s --timeout=0
lint: venv-dev ## Check Python, SQL, shell, the dbt project and the list of commands
	@.venv/bin/pre-commit run --all-files
format: venv-dev ## Format Python and SQL
	@.venv/bin/ruff format scripts tests
	@.venv/bin/ruff check --fix scripts tests
lock: venv-dev ## Compile the lock files from pyproject.toml
	@scripts/lock.sh
pin-images: venv ## Pin the public images: write the digests that their tags stand for today to .env, for make up
	@PYTHONPATH=scripts .venv/bin/python scripts/pin_images.py
sbom: venv ## Write a software bill of materials (CycloneDX) from the lock files to target/sbom.cdx.json
	@.venv/bin/python scripts/sbom.py
reference: venv-dev ## Write the list of commands (make's help, the README's table) from their declarations
	@.venv/bin/python scripts/reference.py

.PHONY: help venv venv-dev
help: ## Show this help
	@awk '/^##@/ && $$0 != group { group = $$0; printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z0-9-]+:[^=]*## / { name = $$0; sub(/:.*/, "", name); sub(/^[^#]*## /, ""); split($$0, part, / ## /); \
	        printf "  %-18s %s\n", name, part[1]; if (part[2]) printf "  %-18s   %s\n", "", part[2] }' scripts/commands.mk Makefile
venv:
	@scripts/bootstrap.sh runtime
venv-dev:
	@scripts/bootstrap.sh dev

# --- What no command takes is refused, before anything runs -------------------------------------------------------

refuse = $(error $(shell $(or $(wildcard .venv/bin/python),python3) scripts/refuse_option.py $(1)))
.DEFAULT:
	$(call refuse,--target $(call quote,$@))
goals := $(or $(MAKECMDGOALS),help)
own := SHELL PYTHON
unknown := $(filter-out $(own) $(settings) $(foreach goal,$(goals),$(call names_of,$(goal))),$(on_command_line))
ifneq ($(unknown),)
    # A make above this one hands its own variables down; only what was written for this one is looked at.
    written := $(shell tr '\0' ' ' </proc/$$PPID/cmdline 2>/dev/null || ps -o args= -p $$PPID)
    unknown := $(strip $(foreach name,$(unknown),$(if $(filter $(name)=% $(name):=% $(name)::=%,$(written)),$(name))))
endif
ifneq ($(unknown),)
    $(call refuse,$(call quote,$(firstword $(unknown))) $(goals))
endif
