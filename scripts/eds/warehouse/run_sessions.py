"""How a session of a run is told in the list of the warehouse's sessions, for every command that looks for one."""

from __future__ import annotations

from psycopg import sql

# The comment is what dbt puts in front of each query (dbt_project.yml), the name is its profile's (profiles.yml): a
# session that merely asked about the run has its invocation somewhere else. The project asks in the same way:
# macros/run/run_is_alive.sql.
_IS_OF_RUN = sql.SQL(
    "(activity.application_name = 'dbt' "
    "and starts_with(activity.query, '/* invocation ' || {invocation}::text || ' ') "
    "and activity.pid <> pg_backend_pid())"
)


def is_of_run(invocation: sql.Composable) -> sql.Composed:
    """Return the condition that a row of pg_stat_activity, as `activity`, is a session of a run.

    invocation: the id of its invocation, as a column or a placeholder.
    """
    return _IS_OF_RUN.format(invocation=invocation)
