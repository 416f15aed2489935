# Written by `make reference` from the commands' declarations; `make lint` compares the two.
# NAME:--flag, by kind: values, switches (1 or 0), arguments; words go where the recipe says.
settings := RUNTIME PRIMARY_HOST PRIMARY_PORT REPLICA1_HOST REPLICA1_PORT REPLICA2_HOST REPLICA2_PORT WAREHOUSE_HOST WAREHOUSE_PORT PGBOUNCER_HOST PGBOUNCER_PORT METABASE_HOST METABASE_PORT PGADMIN_PORT DOCS_PORT PITR_PORT OLTP_DB WAREHOUSE_DB STATE_DIR PG_BINDIR PG_OS_USER PG_DURABLE COMPOSE_PROJECT_NAME DISABLED_SERVICES POSTGRES_DIGEST DEBIAN_DIGEST PYTHON_DIGEST METABASE_DIGEST PGADMIN_DIGEST NGINX_DIGEST PGADMIN_EMAIL SCALE SEED ETL_SCHEDULE ETL_RECONCILE_SCHEDULE ETL_MAX_DELETE_SHARE ETL_SOURCE_WAIT_SECONDS ETL_ATTEMPTS ETL_FRESH_MINUTES DBT_TARGET ALERT_COMMAND ALERT_WEBHOOK TLS TLS_CA_FILE BUSINESS_TIMEZONE ARREARS_TOLERANCE PROVISION_SCHEME CLOSE_DAY SYNCHRONOUS BACKUP_DIR BACKUP_KEEP BACKUP_FULL_SCHEDULE BACKUP_DIFF_SCHEDULE BACKUP_DUMP_SCHEDULE BACKUP_VERIFY_SCHEDULE DRILL_SCHEDULE BACKUP_FRESH_HOURS DRILL_FRESH_DAYS BACKUP_KEEP_FULL BACKUP_WINDOW_DAYS BACKUP_REPO2 BACKUP_REPO2_PATH BACKUP_REPO2_S3_BUCKET BACKUP_REPO2_S3_ENDPOINT BACKUP_REPO2_S3_REGION BACKUP_REPO2_S3_KEY BACKUP_REPO2_S3_KEY_SECRET BACKUP_REPO2_S3_URI_STYLE BACKUP_REPO2_AZURE_ACCOUNT BACKUP_REPO2_AZURE_CONTAINER BACKUP_REPO2_AZURE_KEY BACKUP_REPO2_GCS_BUCKET BACKUP_REPO2_GCS_KEY BACKUP_REPO2_SFTP_HOST BACKUP_REPO2_SFTP_HOST_USER BACKUP_REPO2_SFTP_PRIVATE_KEY_FILE BACKUP_REPO2_SFTP_HOST_KEY_HASH_TYPE BACKUP_REPO2_STORAGE_HOST BACKUP_REPO2_STORAGE_PORT BACKUP_REPO2_STORAGE_CA_FILE CURRENCY DOCS_DIR METABASE_JAR METABASE_ADMIN_EMAIL METABASE_START_SECONDS METABASE_WAREHOUSE_HOST METABASE_WAREHOUSE_PORT MAX_SLOT_WAL_KEEP_SIZE MEMORY OLTP_MEMORY WAREHOUSE_MEMORY WITHOUT EDS_ENV_FILE EDS_SECRETS_DIR CHROMIUM METABASE_TEST_COMMAND
secrets := POSTGRES_PASSWORD APP_USER_PASSWORD READONLY_USER_PASSWORD ETL_READER_PASSWORD REPLICATOR_PASSWORD PGBOUNCER_LOOKUP_PASSWORD WAREHOUSE_POSTGRES_PASSWORD WAREHOUSE_USER_PASSWORD ETL_WRITER_PASSWORD WAREHOUSE_READER_PASSWORD METABASE_ADMIN_PASSWORD METABASE_DB_PASSWORD PGADMIN_PASSWORD BACKUP_REPO2_CIPHER_KEY

##@ Platform
up.values := SCALE:--scale
up.switches := FRESH:--fresh
.PHONY: up
up: venv ## Start everything; the first time also install, create, fill and build it ## SCALE=small|medium|large|empty FRESH=1
	@.venv/bin/python -m eds up $(call flags,up)
.PHONY: down
down: venv ## Stop everything, keep the data
	@.venv/bin/python -m eds down $(call flags,down)
ps.switches := JSON:--json CSV:--csv
.PHONY: ps
ps: venv ## Show what runs where ## JSON=1 CSV=1
	@.venv/bin/python -m eds ps $(call flags,ps)
logs.values := LINES:--lines LINES_OF_LOG:--lines
logs.arguments := SERVICE
.PHONY: logs
logs: venv ## Show the end of the services' logs ## SERVICE=primary LINES=30
	@.venv/bin/python -m eds logs $(call flags,logs)
.PHONY: clean
clean: venv ## Stop everything, remove logs and dbt's files, keep the data
	@.venv/bin/python -m eds clean $(call flags,clean)
nuke.switches := FORCE:--force
.PHONY: nuke
nuke: venv ## Destroy all databases, the WAL archive, logs and settings of this checkout, after asking ## FORCE=1
	@.venv/bin/python -m eds nuke $(call flags,nuke)
compose.words := ARGS
.PHONY: compose
compose: venv ## Run docker compose with the platform's settings ## ARGS="top primary"
	@.venv/bin/python -m eds compose $(call flags,compose) $(call given,ARGS)

##@ Warehouse
build.values := SELECT:--select
build.switches := FULL_REFRESH:--full-refresh
.PHONY: build
build: venv ## Run dbt build, of everything or a part ## SELECT=fact_loans+ FULL_REFRESH=1
	@.venv/bin/python -m eds build $(call flags,build)
etl.values := LIMIT:--limit
etl.switches := NOW:--now MASS_DELETE:--mass-delete JSON:--json CSV:--csv
.PHONY: etl
etl: venv ## Show the run history; NOW=1 runs one now ## NOW=1 MASS_DELETE=1 LIMIT=15 JSON=1 CSV=1
	@.venv/bin/python -m eds etl $(call flags,etl)
reconcile.switches := MASS_DELETE:--mass-delete
.PHONY: reconcile
reconcile: venv ## Compare every row with the source, repair what differs, test all data (also done nightly) ## MASS_DELETE=1
	@.venv/bin/python -m eds reconcile $(call flags,reconcile)
close.values := MONTH:--month
close.switches := AGAIN:--again JSON:--json CSV:--csv
.PHONY: close
close: venv ## Show the reported months; MONTH=2026-10 reports one by hand, AGAIN=1 once more ## MONTH=2026-10 AGAIN=1 JSON=1 CSV=1
	@.venv/bin/python -m eds close $(call flags,close)

##@ Operations
.PHONY: restore-machine
restore-machine: venv ## On a new machine: bring the loan book back from the second repository of backups, then start everything
	@.venv/bin/python -m eds restore-machine $(call flags,restore-machine)
verify.switches := JSON:--json
.PHONY: verify
verify: venv ## Check everything by using it, one line per check ## JSON=1
	@.venv/bin/python -m eds verify $(call flags,verify)
health.switches := JSON:--json
.PHONY: health
health: venv ## Check services, replication, archive and freshness in a second ## JSON=1
	@.venv/bin/python -m eds health $(call flags,health)
replication.switches := JSON:--json CSV:--csv
.PHONY: replication
replication: venv ## Show how the replicas follow the primary: positions, lag, slots, WAL kept ## JSON=1 CSV=1
	@.venv/bin/python -m eds replication $(call flags,replication)
backup.values := KIND:--kind FORMAT:--format KEEP:--keep TYPE:--type
.PHONY: backup
backup: venv ## Back up, read the backup back, remove what is too old ## KIND=logical|operational|warehouse|physical FORMAT=sql|custom KEEP=7 TYPE=full|diff|incr
	@.venv/bin/python -m eds backup $(call flags,backup)
backups.switches := VERIFY:--verify JSON:--json CSV:--csv
.PHONY: backups
backups: venv ## List the backups ## VERIFY=1 JSON=1 CSV=1
	@.venv/bin/python -m eds backups $(call flags,backups)
restore.values := FILE:--file
restore.switches := FORCE:--force WITHOUT_MANIFEST:--without-manifest
.PHONY: restore
restore: venv ## Put a dump in place of its database, after checking it and asking ## FILE=backup_….sql.gz FORCE=1 WITHOUT_MANIFEST=1
	@.venv/bin/python -m eds restore $(call flags,restore)
wal.switches := SWITCH:--switch VERIFY:--verify
.PHONY: wal
wal: venv ## Show the WAL archive: segments by timeline, gaps, what waits or fails ## SWITCH=1 VERIFY=1
	@.venv/bin/python -m eds wal $(call flags,wal)
pitr.values := TO:--to TIMELINE:--timeline MARK:--mark
pitr.switches := PROMOTE:--promote REMOVE:--remove FORCE:--force
.PHONY: pitr
pitr: venv ## Recover the loan book to a point in time, beside the primary or in its place ## TO='2026-01-31 14:32:05+00'|latest|NAME|0/3000060 PROMOTE=1 REMOVE=1 TIMELINE=2 MARK=before_import FORCE=1
	@.venv/bin/python -m eds pitr $(call flags,pitr)
drill.switches := JSON:--json
.PHONY: drill
drill: venv ## Restore the newest physical backup beside the primary, compare, record RPO and RTO ## JSON=1
	@.venv/bin/python -m eds drill $(call flags,drill)
failover.values := TO:--to
failover.switches := FORCE:--force
.PHONY: failover
failover: venv ## Make a replica the primary, after asking; the old primary becomes a replica ## TO=replica1 FORCE=1
	@.venv/bin/python -m eds failover $(call flags,failover)
failover-diff.values := NAME:--name
.PHONY: failover-diff
failover-diff: venv ## Show the changes that only a former primary has ## NAME=primary
	@.venv/bin/python -m eds failover-diff $(call flags,failover-diff)
rejoin.values := NAME:--name
rejoin.switches := FORCE:--force
.PHONY: rejoin
rejoin: venv ## Bring a former primary back as a replica, by pg_rewind ## NAME=primary FORCE=1
	@.venv/bin/python -m eds rejoin $(call flags,rejoin)
concurrency.values := ONLY:--only
concurrency.switches := PLAIN:--plain
.PHONY: concurrency
concurrency: venv ## Run concurrency scenarios: what happens when sessions meet on the same rows ## ONLY=deadlock,mvcc PLAIN=1
	@.venv/bin/python -m eds concurrency $(call flags,concurrency)
rotate-password.values := ROLE:--role
.PHONY: rotate-password
rotate-password: venv ## Give a role a new password, wherever it is used ## ROLE=app_user
	@.venv/bin/python -m eds rotate-password $(call flags,rotate-password)
rotate-certificates.switches := CA:--ca
.PHONY: rotate-certificates
rotate-certificates: venv ## Give every server another certificate and key, without a restart ## CA=1
	@.venv/bin/python -m eds rotate-certificates $(call flags,rotate-certificates)
service.switches := REMOVE:--remove
.PHONY: service
service: venv ## Let the platform start when the machine does: a systemd user unit, or cron where there is none ## REMOVE=1
	@.venv/bin/python -m eds service $(call flags,service)

##@ Dashboards and documentation
.PHONY: dashboards
dashboards: venv ## Write the dashboards as one HTML page (the scheduler does it after each run)
	@.venv/bin/python -m eds dashboards $(call flags,dashboards)
export.values := BOARD:--board FORMAT:--format TO:--to FILTERS:--filters
.PHONY: export
export: venv ## Write the dashboards' figures to Excel workbooks or CSV files ## BOARD=portfolio FORMAT=csv TO=exports FILTERS='branch=NRB01&segment=sme'
	@.venv/bin/python -m eds export $(call flags,export)
.PHONY: metabase
metabase: venv ## Bring Metabase to what infra/dashboards/*.yml say ## METABASE_HOST METABASE_PORT
	@.venv/bin/python -m eds metabase $(call flags,metabase)
docs.switches := GENERATE_ONLY:--generate-only
.PHONY: docs
docs: venv ## Serve dashboards, lineage and star schema on DOCS_PORT; rebuild first what is out of date ## GENERATE_ONLY=1 DOCS_PORT
	@.venv/bin/python -m eds docs $(call flags,docs)

##@ Loan book
demo.values := SCALE:--scale SEED:--seed
.PHONY: demo
demo: venv ## Fill an empty loan book with demo data ## SCALE=small|medium|large SEED=42
	@.venv/bin/python -m eds demo $(call flags,demo)
simulate.values := RATE:--rate FOR:--for SEED:--seed SIMULATION_SEED:--seed
simulate.switches := FORCE:--force
.PHONY: simulate
simulate: venv ## Run live traffic through the application's role ## RATE=20 FOR=30s SEED=7 FORCE=1
	@.venv/bin/python -m eds simulate $(call flags,simulate)
import.values := DIR:--dir MAPPING:--mapping FORMAT:--format DATES:--dates DECIMAL:--decimal CENTURY:--century TIMEZONE:--timezone ENCODING:--encoding DELIMITER:--delimiter HEADER_LINE:--header-line EMPTY:--empty
import.switches := SYNC:--sync MASS_DELETE:--mass-delete REPLACE_DEMO:--replace-demo DRY_RUN:--dry-run
.PHONY: import
import: venv ## Import a loan book from CSV files ## DIR=/data/book SYNC=1 MASS_DELETE=1 REPLACE_DEMO=1 DRY_RUN=1 MAPPING=mapping.yml FORMAT=auto|excel-us|excel-uk|excel-eu DATES=dmy|mdy|ymd DECIMAL=point|comma CENTURY=1930 TIMEZONE=Africa/Nairobi ENCODING=windows-1252 DELIMITER=comma|semicolon|tab|pipe HEADER_LINE=1 EMPTY=NULL,-
	@.venv/bin/python -m eds import $(call flags,import)
import-template.values := DIR:--dir
.PHONY: import-template
import-template: venv ## Write a draft of a mapping file beside CSV files ## DIR=/data/book
	@.venv/bin/python -m eds import-template $(call flags,import-template)

##@ SQL
psql-primary.values := ROLE:--role
psql-primary.switches := CSV:--csv TUPLES:--tuples
.PHONY: psql-primary
psql-primary: venv ## psql on the primary, as a role that reads; without a terminal, runs standard input's SQL ## ROLE=app_user CSV=1 TUPLES=1
	@.venv/bin/python -m eds psql primary $(call flags,psql-primary)
psql-replica1.values := ROLE:--role
psql-replica1.switches := CSV:--csv TUPLES:--tuples
.PHONY: psql-replica1
psql-replica1: venv ## psql on replica 1 ## ROLE=readonly_user CSV=1 TUPLES=1
	@.venv/bin/python -m eds psql replica1 $(call flags,psql-replica1)
psql-replica2.values := ROLE:--role
psql-replica2.switches := CSV:--csv TUPLES:--tuples
.PHONY: psql-replica2
psql-replica2: venv ## psql on replica 2 ## ROLE=readonly_user CSV=1 TUPLES=1
	@.venv/bin/python -m eds psql replica2 $(call flags,psql-replica2)
psql-warehouse.values := ROLE:--role
psql-warehouse.switches := CSV:--csv TUPLES:--tuples
.PHONY: psql-warehouse
psql-warehouse: venv ## psql on the warehouse ## ROLE=etl_writer CSV=1 TUPLES=1
	@.venv/bin/python -m eds psql warehouse $(call flags,psql-warehouse)
psql-recovered.values := ROLE:--role
psql-recovered.switches := CSV:--csv TUPLES:--tuples
.PHONY: psql-recovered
psql-recovered: venv ## psql on the cluster that make pitr left ## ROLE=readonly_user CSV=1 TUPLES=1
	@.venv/bin/python -m eds psql recovered $(call flags,psql-recovered)

##@ Development
bench.values := SIZES:--sizes INCREMENT:--increment MINUTES:--minutes RUNS:--runs TRAIL:--trail OUT:--out
bench.switches := NO_PEERS:--no-peers
.PHONY: bench
bench: venv ## Measure what a run costs, beside other ways to do it ## SIZES=1M,5M INCREMENT=20000 NO_PEERS=1 MINUTES=5 RUNS=200 TRAIL=5 OUT=docs
	@.venv/bin/python -m bench $(call flags,bench)

# a former name
lost.values := NAME:--name
.PHONY: lost
lost: venv
	@.venv/bin/python -m eds lost $(call flags,lost)

# a former name
rotate.values := ROLE:--role
.PHONY: rotate
rotate: venv
	@.venv/bin/python -m eds rotate $(call flags,rotate)
