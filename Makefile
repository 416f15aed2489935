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
.PHONY: up down ps logs health clean nuke compose
up: venv ## Start everything; the first time also install, create, fill and build (SCALE=small|medium|large|empty)
	@$(EDS) up
down: venv ## Stop everything, keep the data
	@$(EDS) down
ps: venv ## Show what runs where
	@$(EDS) ps
logs: venv ## Show the end of the logs (SERVICE=primary)
	@$(EDS) logs
health: venv ## Tell in a second whether all is well, by exit code too (JSON=1)
	@$(EDS) health
clean: venv ## Stop everything, remove logs and build files, keep the data
	@$(EDS) clean
nuke: venv ## Destroy all data of this checkout, after asking (FORCE=1)
	@$(EDS) nuke
compose: venv ## Run docker compose with the platform's settings (ARGS="top primary")
	@$(EDS) compose $(ARGS)

##@ Warehouse
.PHONY: build etl reconcile
build: venv ## Run dbt build (SELECT=fact_loans+ FULL_REFRESH=1)
	@$(EDS) build
etl: venv ## Show the run history; NOW=1 runs one now
	@$(EDS) etl
reconcile: venv ## Run one that compares every row with the source and tests all data
	@$(EDS) reconcile

##@ Operations
.PHONY: verify replication backup backups restore wal pitr failover lost rejoin concurrency rotate
verify: venv ## Check everything by doing it, one line per check, and leave nothing behind (JSON=1)
	@$(EDS) verify
replication: venv ## Show how the replicas follow: positions, lag, slots, WAL kept (JSON=1)
	@$(EDS) replication
backup: venv ## Back up both databases (KIND=operational|warehouse|physical FORMAT=custom KEEP=7)
	@$(EDS) backup
backups: venv ## List the backups; VERIFY=1 reads each one back again
	@$(EDS) backups
restore: venv ## Put a dump in place of its database, after checking it and asking (FILE=… FORCE=1)
	@$(EDS) restore
wal: venv ## Show the WAL archive: segments, gaps, what waits or fails
	@$(EDS) wal
pitr: venv ## Recover to a moment beside the primary (TO='2026-01-31 14:32:05+00'|latest|a restore point; PROMOTE=1 REMOVE=1)
	@$(EDS) pitr
failover: venv ## Make a replica the primary, after asking (TO=replica1 FORCE=1); the old primary becomes a replica
	@$(EDS) failover
lost: venv ## Show the changes that only a former primary has (NAME=primary)
	@$(EDS) lost
rejoin: venv ## Bring a former primary back as a replica, by pg_rewind
	@$(EDS) rejoin
concurrency: venv ## Play what happens when sessions meet on the same rows (ONLY=deadlock,mvcc PLAIN=1)
	@$(EDS) concurrency
rotate: venv ## Give a role a new password, everywhere it is used (ROLE=app_user)
	@$(EDS) rotate

##@ Dashboards and documentation
.PHONY: dashboards metabase docs
dashboards: venv ## Write the dashboards as one HTML page (the scheduler does it after each run)
	@$(EDS) dashboards
metabase: venv ## Bring Metabase to what infra/dashboards/*.yml say (METABASE_HOST, METABASE_PORT)
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
.PHONY: psql-primary psql-replica1 psql-replica2 psql-warehouse psql-recovered
psql-primary: venv ## psql on the primary (ROLE=app_user); runs the SQL of standard input
	@$(EDS) psql primary
psql-replica1: venv ## psql on replica 1
	@$(EDS) psql replica1
psql-replica2: venv ## psql on replica 2
	@$(EDS) psql replica2
psql-warehouse: venv ## psql on the warehouse (ROLE=warehouse_reader)
	@$(EDS) psql warehouse

psql-recovered: venv ## psql on the cluster that make pitr left
	@$(EDS) psql recovered

##@ Development
.PHONY: bench
bench: venv ## Measure what a run costs on a throw-away cluster (SIZES=1M,5M MINUTES=5 TRAIL=5 RUNS=200; OUT=docs writes docs/benchmarks.md)
	@.venv/bin/python -m bench
.PHONY: screenshots
screenshots: venv-dev ## Take the README's pictures anew, of this checkout's pages (needs Chromium)
	@$(EDS) screenshots
.PHONY: test test-docker soak lint format lock
test: venv-dev ## Run the whole test suite on throw-away clusters, one per job (ARGS="-k import" JOBS=2)
	@.venv/bin/python -m pytest --numprocesses $(or $(JOBS),2) --dist loadfile $(ARGS)
test-docker: venv-dev ## Test the Docker runtime on a throw-away stack; needs an engine (ARGS="-k network")
	@.venv/bin/python -m pytest tests/docker $(ARGS)
soak: venv-dev ## Random changes, crashes and moving sources for as long as you like (FOR=30m RANDOM_SEED=…)
	@.venv/bin/python -m pytest tests/integration/soak.py -s --timeout=0
lint: venv-dev ## Check Python, SQL, shell and the dbt project
	@.venv/bin/pre-commit run --all-files
format: venv-dev ## Format Python and SQL
	@.venv/bin/ruff format scripts tests
	@.venv/bin/ruff check --fix scripts tests
lock: venv-dev ## Compile the lock files from pyproject.toml
	@scripts/lock.sh
