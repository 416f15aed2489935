"""Who may do what: the expected matrix of roles, objects and verbs, and what differs from it.

The matrix is plain data, below. It names each object of the OLTP database and each schema of the warehouse; an object
without a rule is a difference, so that a new table is thought about before it is read. A privilege counts when it can
be used: on the object, and usage of its schema.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from psycopg import Connection

RELATION_VERBS = ("select", "insert", "update", "delete", "truncate", "references", "trigger")
SEQUENCE_VERBS = ("usage", "select", "update")
ALL = " ".join(RELATION_VERBS)
ALL_OF_SEQUENCE = " ".join(SEQUENCE_VERBS)

Rules = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Matrix:
    """What each role should be able to do in one database. An absent role or verb means: not.

    relations, sequences, functions: "schema.name" or "schema.*" to verbs by role; functions by signature. roles: the
    attributes of each role that can log in, beside `login`. limits: how many connections each of them gets; other than
    the superuser, none is without. settings: what each role's sessions begin with. others: databases of the server
    beside this one; in those that are not named, nobody has anything.
    """

    roles: dict[str, str]
    limits: dict[str, int]
    settings: dict[str, dict[str, str]]
    database: dict[str, str]
    schemas: Rules
    relations: Rules
    sequences: Rules
    functions: Rules = field(default_factory=dict)
    others: Rules = field(default_factory=dict)
    members: frozenset[tuple[str, str]] = frozenset()


_BUSINESS_TABLE = {"app_user": "select insert update delete", "readonly_user": "select", "etl_reader": "select"}
_FEED = {"etl_reader": "select"}

OLTP = Matrix(
    roles={
        "postgres": "superuser createdb createrole replication bypassrls",
        "app_user": "",
        "readonly_user": "",
        "etl_reader": "",
        "pgbouncer_lookup": "",
        "replicator": "replication",
    },
    # Together fewer than max_connections in oltp.conf; replicator has max_wal_senders.
    limits={"app_user": 50, "readonly_user": 30, "etl_reader": 15, "pgbouncer_lookup": 20, "replicator": -1},
    settings={
        "app_user": {"idle_in_transaction_session_timeout": "10min"},
        "readonly_user": {
            "default_transaction_read_only": "on",
            "statement_timeout": "30min",
            "idle_in_transaction_session_timeout": "10min",
            "idle_session_timeout": "8h",
        },
        "etl_reader": {"default_transaction_read_only": "on"},
        "pgbouncer_lookup": {"statement_timeout": "10s"},
    },
    database={
        "app_user": "connect temporary",
        "readonly_user": "connect",
        "etl_reader": "connect",
        "pgbouncer_lookup": "connect",
    },
    schemas={
        "operational": {"app_user": "usage", "readonly_user": "usage", "etl_reader": "usage"},
        "etl": {"etl_reader": "usage"},
        "pgbouncer": {"pgbouncer_lookup": "usage"},
        "platform": {},
        # The sandbox of `make concurrency`, while it runs.
        "concurrency": {"app_user": "usage"},
        "public": dict.fromkeys(("app_user", "readonly_user", "etl_reader", "replicator", "pgbouncer_lookup"), "usage"),
    },
    relations={
        "operational.customers": _BUSINESS_TABLE,
        "operational.loan_products": _BUSINESS_TABLE,
        "operational.loans": _BUSINESS_TABLE,
        "operational.payments": _BUSINESS_TABLE,
        "operational.loan_installments": _BUSINESS_TABLE,
        "operational.audit_log": {"readonly_user": "select"},
        "operational.demo_book": {"app_user": "select update", "readonly_user": "select"},
        "operational.vw_active_loans": {"app_user": "select", "readonly_user": "select"},
        "operational.vw_customer_payment_summary": {"app_user": "select", "readonly_user": "select"},
        "etl.customers_changes": _FEED,
        "etl.loan_products_changes": _FEED,
        "etl.loans_changes": _FEED,
        "etl.payments_changes": _FEED,
        "etl.loan_installments_changes": _FEED,
        "etl.feed_events": _FEED,
        "etl.feed_widths": _FEED,
        "etl.table_widths": _FEED,
        "etl.trail": _FEED,
        "etl.trail_end": _FEED,
        "etl.trail_transactions": _FEED,
        "etl.source_state": _FEED,
        "etl.source_columns": _FEED,
        "etl.replaced_tables": _FEED,
        "etl.applied_parts": _FEED,
        "etl.server_figures": _FEED,
        "platform.*": {},
        "concurrency.*": {"app_user": "select insert update delete"},
    },
    sequences={
        "concurrency.*": {},
        "operational.customers_customer_id_seq": {"app_user": "select update"},
        "operational.loan_products_product_id_seq": {"app_user": "select update"},
        "operational.loans_loan_id_seq": {"app_user": "select update"},
        "operational.payments_payment_id_seq": {"app_user": "select update"},
        "operational.loan_installments_installment_id_seq": {"app_user": "select update"},
        "operational.audit_log_log_id_seq": {},
    },
    functions={
        # Trigger functions: nobody may attach them to another table.
        "operational.*": {},
        "operational.advance_identity(regclass)": {"app_user": "execute"},
        "etl.*": {},
        "platform.*": {},
        "etl.source_state()": {"etl_reader": "execute"},
        "etl.widest_row(regclass)": {"etl_reader": "execute"},
        "etl.unpublishable(regclass)": {"etl_reader": "execute"},
        "etl.changes_view_fits(regclass)": {"etl_reader": "execute"},
        "etl.feed_problem(regclass)": {"etl_reader": "execute"},
        "etl.key_column(regclass)": {"etl_reader": "execute"},
        "etl.records_changes(regclass)": {"etl_reader": "execute"},
        "etl.trail_is_append_only()": {"etl_reader": "execute"},
        "etl.trail_problem()": {"etl_reader": "execute"},
        "etl.view_digest(regclass)": {"etl_reader": "execute"},
        "etl.type_name(oid,integer)": {"etl_reader": "execute"},
        "etl.feed_parts()": {"etl_reader": "execute"},
        "etl.changed_part()": {"etl_reader": "execute"},
        "etl.server_figures()": {"etl_reader": "execute"},
        "pgbouncer.user_lookup(text)": {"pgbouncer_lookup": "execute"},
    },
    members=frozenset({("loans_owner", "pg_monitor")}),
)

_DBT = {"etl_writer": ALL, "warehouse_user": "select"}
_DBT_FUNCTION = {"etl_writer": "execute", "warehouse_user": "execute"}
_DBT_SCHEMA = {"etl_writer": "usage create", "warehouse_user": "usage"}
_DBT_SCHEMAS = ("operational_fdw", "operational", "staging", "snapshots", "changes", "publish", "audit")

WAREHOUSE = Matrix(
    roles={
        "postgres": "superuser createdb createrole replication bypassrls",
        "warehouse_user": "",
        "etl_writer": "",
        "warehouse_reader": "",
        # Metabase's own; it has a database of its own and does not get into this one.
        "metabase_user": "",
    },
    # Together fewer than max_connections in warehouse.conf.
    limits={"etl_writer": 30, "warehouse_user": 15, "warehouse_reader": 30, "metabase_user": 20},
    settings={
        "warehouse_user": {
            "default_transaction_read_only": "on",
            "statement_timeout": "30min",
            "idle_in_transaction_session_timeout": "10min",
            "idle_session_timeout": "8h",
        },
        "warehouse_reader": {
            "default_transaction_read_only": "on",
            "statement_timeout": "60s",
            "idle_in_transaction_session_timeout": "5min",
            "parallel_setup_cost": "5000",
        },
    },
    database={
        "warehouse_user": "connect",
        "etl_writer": "connect create temporary",
        "warehouse_reader": "connect",
    },
    schemas={
        **dict.fromkeys(_DBT_SCHEMAS, _DBT_SCHEMA),
        "warehouse": _DBT_SCHEMA | {"warehouse_reader": "usage"},
        "platform": {},
        "public": dict.fromkeys(("warehouse_reader", "warehouse_user", "etl_writer", "metabase_user"), "usage"),
        # Schemas that people build to try something out (dbt's target dev).
        "dev_*": _DBT_SCHEMA,
        "dev": _DBT_SCHEMA,
    },
    relations={
        **{f"{schema}.*": _DBT for schema in (*_DBT_SCHEMAS, "dev", "dev_*")},
        "warehouse.*": _DBT | {"warehouse_reader": "select"},
        "platform.*": {},
    },
    sequences={"audit.*": {"etl_writer": ALL_OF_SEQUENCE}},
    # Each runs with its caller's privileges. Others than these are reported.
    functions={
        "staging.annuity_schedule(numeric,numeric,integer,date)": _DBT_FUNCTION,
        "publish.refuse_rewriting_reports()": _DBT_FUNCTION,
        "warehouse.portfolio_as_of(date)": _DBT_FUNCTION | {"warehouse_reader": "execute"},
        "dev.*": _DBT_FUNCTION,
        "dev_*.*": _DBT_FUNCTION,
    },
    others={"metabase_db": {"metabase_user": "connect create temporary"}},
)

# Settings of a role or a database that would lead another role's session to code that is not PostgreSQL's.
_LEADS_ASTRAY = (
    "search_path",
    "role",
    "session_preload_libraries",
    "local_preload_libraries",
    "session_replication_role",
)

# Objects of extensions belong to their extension.
_OWN_OBJECT = """
    nsp.nspname !~ '^pg_' and nsp.nspname <> 'information_schema'
    and not exists (select from pg_depend as dep where dep.objid = {oid} and dep.deptype = 'e')
"""
_ROLES = "select oid, rolname from pg_roles where rolcanlogin and not rolsuper"
# The columns' own privileges count as well as the table's.
_RELATIONS = f"""
    select nsp.nspname || '.' || cls.relname, role.rolname, verb,
        has_schema_privilege(role.oid, nsp.oid, 'usage') and (
            has_table_privilege(role.oid, cls.oid, verb)
            or case when verb in ('select', 'insert', 'update', 'references')
                then has_any_column_privilege(role.oid, cls.oid, verb) else false end)
    from pg_class as cls
    inner join pg_namespace as nsp on nsp.oid = cls.relnamespace
    cross join ({_ROLES}) as role
    cross join unnest(%s::text[]) as verb
    where cls.relkind in ('r', 'p', 'v', 'm', 'f') and {_OWN_OBJECT.format(oid="cls.oid")}
"""  # noqa: S608 - no value of anybody in it
_SEQUENCES = f"""
    select nsp.nspname || '.' || cls.relname, role.rolname, verb,
        has_schema_privilege(role.oid, nsp.oid, 'usage') and has_sequence_privilege(role.oid, cls.oid, verb)
    from pg_class as cls
    inner join pg_namespace as nsp on nsp.oid = cls.relnamespace
    cross join ({_ROLES}) as role
    cross join unnest(%s::text[]) as verb
    where cls.relkind = 'S' and {_OWN_OBJECT.format(oid="cls.oid")}
"""  # noqa: S608 - no value of anybody in it
_FUNCTIONS = f"""
    select proc.oid::regprocedure::text,
        role.rolname, 'execute',
        has_schema_privilege(role.oid, nsp.oid, 'usage') and has_function_privilege(role.oid, proc.oid, 'execute')
    from pg_proc as proc
    inner join pg_namespace as nsp on nsp.oid = proc.pronamespace
    cross join ({_ROLES}) as role
    where {_OWN_OBJECT.format(oid="proc.oid")}
"""  # noqa: S608 - no value of anybody in it
# PostgreSQL's own functions that write beside every table: PUBLIC may call them until somebody says otherwise.
_WRITES_BESIDE_TABLES = f"""
    select proc.oid::regprocedure::text, role.rolname
    from pg_proc as proc
    cross join ({_ROLES}) as role
    where proc.pronamespace = 'pg_catalog'::regnamespace
        and (proc.proname ~ '^lo_' or proc.proname in ('loread', 'lowrite', 'pg_logical_emit_message'))
        and has_function_privilege(role.oid, proc.oid, 'execute')
    order by 2, 1
"""  # noqa: S608 - no value of anybody in it
_LARGE_OBJECTS = "select oid::text, lomowner::regrole::text from pg_largeobject_metadata order by oid"
_SCHEMAS = f"""
    select nsp.nspname, role.rolname, verb, has_schema_privilege(role.oid, nsp.oid, verb)
    from pg_namespace as nsp
    cross join ({_ROLES}) as role
    cross join unnest(array['usage', 'create']) as verb
    where {_OWN_OBJECT.format(oid="nsp.oid")}
"""  # noqa: S608 - no value of anybody in it
_DATABASES = f"""
    select place.datname::text, role.rolname, verb, has_database_privilege(role.oid, place.oid, verb)
    from pg_database as place
    cross join ({_ROLES}) as role
    cross join unnest(array['connect', 'create', 'temporary']) as verb
    where place.datallowconn
"""  # noqa: S608 - no value of anybody in it
_LIMITS = "select rolname, rolconnlimit from pg_roles where rolcanlogin and not rolsuper"
# By role ('' for every role), of this database or of all.
_SETTINGS = """
    select coalesce(role.rolname, ''), split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1)
    from pg_db_role_setting as found
    left join pg_roles as role on role.oid = found.setrole
    cross join unnest(found.setconfig) as setting
    where found.setdatabase in (0, (select oid from pg_database where datname = current_database()))
"""
_ATTRIBUTES = """
    select rolname, concat_ws(' ', case when rolsuper then 'superuser' end, case when rolcreatedb then 'createdb' end,
        case when rolcreaterole then 'createrole' end, case when rolreplication then 'replication' end,
        case when rolbypassrls then 'bypassrls' end)
    from pg_roles
    where rolcanlogin
"""
_MEMBERS = """
    select member.rolname, role.rolname
    from pg_auth_members
    inner join pg_roles as role on role.oid = pg_auth_members.roleid
    inner join pg_roles as member on member.oid = pg_auth_members.member
    where member.oid >= 16384
"""


def _rule(rules: Rules, name: str) -> dict[str, str] | None:
    """Return the rule of an object: by its own name, by its schema, or by the longest beginning that ends in *."""
    if name in rules:
        return rules[name]
    schema = name.partition(".")[0]
    if f"{schema}.*" in rules:
        return rules[f"{schema}.*"]
    if "." in name:
        patterns = {pattern.removesuffix(".*"): rule for pattern, rule in rules.items() if pattern.endswith("*.*")}
    else:
        patterns = {pattern: rule for pattern, rule in rules.items() if pattern.endswith("*")}
    for pattern, rule in patterns.items():
        if schema.startswith(pattern.removesuffix("*")):
            return rule
    return None


def differences(connection: Connection, matrix: Matrix) -> tuple[list[str], int]:
    """Return what roles can do and should not, and the other way round; and how many cells were compared.

    connection: as superuser, to the database.
    """
    found: list[str] = []
    compared = 0

    def compare(kind: str, query: str, rules: Rules, verbs: list[str] | None) -> None:
        nonlocal compared
        unknown = set()
        for name, role, verb, may in connection.execute(query.encode(), (verbs,) if verbs else None).fetchall():
            rule = _rule(rules, name)
            if rule is None:
                unknown.add(name)
                continue
            compared += 1
            should = verb in rule.get(role, "").split()
            if may and not should:
                found.append(f"{role} may {verb} on {kind} {name}, and should not")
            elif should and not may:
                found.append(f"{role} should {verb} on {kind} {name}, and may not")
        found.extend(f"{kind} {name} has no rule in eds.ops.privileges" for name in sorted(unknown))

    compare("relation", _RELATIONS, matrix.relations, list(RELATION_VERBS))
    compare("sequence", _SEQUENCES, matrix.sequences, list(SEQUENCE_VERBS))
    compare("function", _FUNCTIONS, matrix.functions, None)
    compare("schema", _SCHEMAS, matrix.schemas, None)
    database = str(connection.info.dbname)
    # Also what a restore keeps or loads.
    own = dict.fromkeys((database, f"{database}_replaced_*", f"{database}_restore_*"), matrix.database)
    compare("database", _DATABASES, matrix.others | own | {"*": {}}, None)
    for function, role in connection.execute(_WRITES_BESIDE_TABLES.encode()).fetchall():
        found.append(f"{role} may execute on function {function}, and should not")
    for number, owner in connection.execute(_LARGE_OBJECTS.encode()).fetchall():
        found.append(f"large object {number} of {owner} has no rule in eds.ops.privileges")
    found += _of_sessions(connection, matrix)
    compared += len(matrix.limits) + sum(map(len, matrix.settings.values()))

    present: dict[str, str] = dict(connection.execute(_ATTRIBUTES.encode()).fetchall())
    compared += len(present)
    for role, attributes in present.items():
        if role not in matrix.roles:
            found.append(f"role {role} can log in and has no rule in eds.ops.privileges")
        elif attributes != matrix.roles[role]:
            found.append(f"role {role} has the attributes [{attributes}], expected [{matrix.roles[role]}]")
    found.extend(f"role {role} is missing" for role in matrix.roles if role not in present)
    members = set(connection.execute(_MEMBERS.encode()).fetchall())
    found.extend(f"role {member} is a member of {role}, and should not be" for member, role in members - matrix.members)
    found.extend(f"role {member} should be a member of {role}" for member, role in matrix.members - members)
    return found, compared


def _of_sessions(connection: Connection, matrix: Matrix) -> list[str]:
    """Return what is wrong with how many connections roles get, and with what their sessions begin."""
    limits: dict[str, int] = dict(connection.execute(_LIMITS.encode()).fetchall())
    found = [
        f"{role} may have {'any number of' if limit < 0 else limit} connections, expected {matrix.limits[role]}"
        for role, limit in limits.items()
        if role in matrix.limits and limit != matrix.limits[role]
    ]
    settings: dict[tuple[str, str], str] = {
        (role, name): value for role, name, value in connection.execute(_SETTINGS.encode()).fetchall()
    }
    for role, expected in matrix.settings.items():
        found += [
            f"{role} should begin with {name} = {value}, found {settings.get((role, name), 'nothing')}"
            for name, value in expected.items()
            if settings.get((role, name)) != value
        ]
    return found + [
        f"{role or 'every session'} begins with {name} = {value}, and should not"
        for (role, name), value in settings.items()
        if name in _LEADS_ASTRAY
    ]
