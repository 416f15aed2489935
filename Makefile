# Everything the platform can do. `make` alone lists it.
# Arguments are variables: make build SELECT=fact_loans+; they reach the commands through the environment.
SHELL := /bin/sh
EDS := .venv/bin/python -m eds
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv venv-dev
venv:
	@scripts/bootstrap.sh runtime
venv-dev:
	@scripts/bootstrap.sh dev

##@ Platform
.PHONY: up down ps logs health clean nuke
up: venv ## Start everything; the first time also install, create, fill and build (SCALE=small|medium|large|empty)
	@$(EDS) up
down: venv ## Stop everything, keep the data
	@$(EDS) down
ps: venv ## Show what runs where
	@$(EDS) ps
logs: venv ## Show the end of the logs (SERVICE=primary)
	@$(EDS) logs
health: venv ## Tell how old the last successful run is (JSON=1)
	@$(EDS) health
clean: venv ## Stop everything, remove logs and build files, keep the data
	@$(EDS) clean
nuke: venv ## Destroy all data of this checkout, after asking (FORCE=1)
	@$(EDS) nuke

##@ Warehouse
.PHONY: build etl reconcile
build: venv ## Run dbt build (SELECT=fact_loans+ FULL_REFRESH=1)
	@$(EDS) build
etl: venv ## Show the run history; NOW=1 runs one now
	@$(EDS) etl
reconcile: venv ## Run one that compares every row with the source and tests all data
	@$(EDS) reconcile

##@ Dashboards and documentation
.PHONY: dashboards metabase docs
dashboards: venv ## Write the dashboards as one HTML page (the scheduler does it after each run)
	@$(EDS) dashboards
metabase: venv ## Bring Metabase to what dashboards/*.yml say (METABASE_HOST, METABASE_PORT)
	@$(EDS) metabase
docs: venv ## Serve dashboards, lineage and star schema on DOCS_PORT (GENERATE_ONLY=1 writes them and ends)
	@$(EDS) docs

##@ Loan book
.PHONY: demo simulate import
demo: venv ## Fill an empty loan book with demo data (SCALE=medium SEED=42)
	@$(EDS) demo
simulate: venv ## Play live traffic through the application's role (RATE=20 FOR=30s)
	@$(EDS) simulate
import: venv ## Import a loan book from CSV files (DIR=… SYNC=1)
	@$(EDS) import

##@ SQL
.PHONY: psql-primary psql-replica1 psql-replica2 psql-warehouse
psql-primary: venv ## psql on the primary (ROLE=app_user); runs the SQL of standard input
	@$(EDS) psql primary
psql-replica1: venv ## psql on replica 1
	@$(EDS) psql replica1
psql-replica2: venv ## psql on replica 2
	@$(EDS) psql replica2
psql-warehouse: venv ## psql on the warehouse (ROLE=warehouse_reader)
	@$(EDS) psql warehouse

##@ Development
.PHONY: screenshots
screenshots: venv-dev ## Take the README's pictures anew, of this checkout's pages (needs Chromium)
	@$(EDS) screenshots
.PHONY: test lint format lock
test: venv-dev ## Run the whole test suite on its own throw-away cluster (ARGS="-k import")
	@.venv/bin/python -m pytest $(ARGS)
lint: venv-dev ## Check Python, SQL, shell and the dbt project
	@.venv/bin/pre-commit run --all-files
format: venv-dev ## Format Python and SQL
	@.venv/bin/ruff format scripts tests
	@.venv/bin/ruff check --fix scripts tests
lock: venv-dev ## Compile the lock files from pyproject.toml
	@scripts/lock.sh
