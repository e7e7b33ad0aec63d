"""All settings of a role or a database, and the effect of each on the two programs."""

from collections.abc import Iterator
from typing import Any, Final

import asyncpg

from outbox_worker.postgres import sessions
from service.store.postgres.connection import SETTINGS

# An extension's settings are known once it is loaded. The functions of the schema load plpgsql.
LOAD: Final = "LOAD 'plpgsql'"
LIST: Final = """
SELECT name, vartype, setting, min_val, max_val, enumvals
FROM pg_settings
WHERE context IN ('user', 'superuser')
ORDER BY name
"""

OVERRIDDEN: Final = frozenset({
    *SETTINGS,
    *sessions.SETTINGS,
    *("application_name", "client_encoding"),  # in the startup message
    *("transaction_isolation", "transaction_read_only", "transaction_deferrable"),  # by BEGIN
})  # fmt: skip
"""Settings that the programs override in each session."""

RESPECTED: Final = {
    "default_transaction_read_only": "the service is not ready, and names it; the worker does not lead",
    "search_path": "names the schema of the tables; without it, both programs say that there is none",
    "local_preload_libraries": "Postgres refuses the connection, and names the library that is missing",
    "session_preload_libraries": "the same",
    "temp_file_limit": "Postgres refuses a statement that needs more; with work_mem as set, none does",
    "max_stack_depth": "Postgres refuses what is nested too deep; the programs' statements are not",
    "role": "the programs have the rights of that role",
}
"""Settings that the programs do not override, with their effect."""

HARMLESS: Final[dict[str, tuple[str, ...]]] = {
    "how values are written as text: the programs read and write binary": (
        *("DateStyle", "IntervalStyle", "TimeZone", "timezone_abbreviations", "bytea_output"),
        *("extra_float_digits", "xmlbinary", "xmloption", "lc_monetary", "lc_numeric", "lc_time"),
        *("quote_all_identifiers", "default_text_search_config", "icu_validation_level"),
    ),
    "how literals are read: no statement has a backslash, a NULL in an array's text or `= NULL`": (
        *("standard_conforming_strings", "backslash_quote", "escape_string_warning"),
        *("array_nulls", "transform_null_equals", "composite_type_mismatch"),
    ),
    "costs and sizes of plans: the statements allow only index scans": (
        *("constraint_exclusion", "cpu_index_tuple_cost", "cpu_operator_cost", "cpu_tuple_cost"),
        *("cursor_tuple_fraction", "effective_cache_size", "from_collapse_limit"),
        *("join_collapse_limit", "geqo", "geqo_effort", "geqo_generations", "geqo_pool_size"),
        *("geqo_seed", "geqo_selection_bias", "geqo_threshold", "hash_mem_multiplier"),
        *("parallel_leader_participation", "parallel_setup_cost", "parallel_tuple_cost"),
        *("min_parallel_index_scan_size", "min_parallel_table_scan_size", "max_parallel_workers"),
        *("max_parallel_maintenance_workers", "plan_cache_mode", "random_page_cost"),
        *("recursive_worktable_factor", "seq_page_cost", "enable_async_append"),
        *("enable_bitmapscan", "enable_distinct_reordering", "enable_gathermerge"),
        *("enable_group_by_reordering", "enable_hashagg", "enable_hashjoin"),
        *("enable_incremental_sort", "enable_material", "enable_memoize", "enable_mergejoin"),
        *("enable_parallel_append", "enable_parallel_hash", "enable_partitionwise_aggregate"),
        *("enable_partitionwise_join", "enable_presorted_aggregate"),
        *("enable_self_join_elimination", "enable_seqscan", "enable_sort", "enable_tidscan"),
        *("debug_parallel_query", "force_parallel_mode", "default_statistics_target"),
        *("jit_above_cost", "jit_dump_bitcode", "jit_expressions", "jit_inline_above_cost"),
        *("jit_optimize_above_cost", "jit_tuple_deforming", "stats_fetch_consistency"),
        *("synchronize_seqscans", "effective_io_concurrency", "io_combine_limit"),
        *("maintenance_io_concurrency", "temp_buffers", "backend_flush_after"),
    ),
    "what is logged and measured": (
        *("backtrace_functions", "client_min_messages", "compute_query_id", "debug_pretty_print"),
        *("debug_print_parse", "debug_print_plan", "debug_print_rewritten", "lc_messages"),
        *("log_duration", "log_error_verbosity", "log_executor_stats", "log_lock_failures"),
        *("log_lock_waits", "log_min_duration_sample", "log_min_duration_statement"),
        *("log_min_error_statement", "log_min_messages", "log_parameter_max_length"),
        *("log_parameter_max_length_on_error", "log_parser_stats", "log_planner_stats"),
        *("log_replication_commands", "log_statement", "log_statement_sample_rate"),
        *("log_statement_stats", "log_temp_files", "log_transaction_sample_rate"),
        *("md5_password_warnings", "trace_notify", "trace_sort", "track_cost_delay_timing"),
        *("track_counts", "track_functions", "track_io_timing", "track_wal_io_timing"),
        *("update_process_title", "plpgsql.print_strict_params", "plpgsql.extra_warnings"),
    ),
    "the server itself ends a leader's silent session, even if no standby sees the silence": (
        "track_activities",
    ),
    "how the server checks connections and locks; the programs check them too": (
        *("client_connection_check_interval", "deadlock_timeout", "tcp_keepalives_count"),
        *("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_user_timeout"),
    ),
    "how pages and WAL are written; a COMMIT waits for its record all the same": (
        *("commit_delay", "commit_siblings", "wal_compression", "wal_consistency_checking"),
        *("wal_init_zero", "wal_recycle", "wal_skip_threshold", "ignore_checksum_failure"),
        *("zero_damaged_pages", "default_toast_compression", "default_table_access_method"),
        *("default_tablespace", "temp_tablespaces", "allow_in_place_tablespaces"),
    ),
    "only for serializable transactions, which neither program uses": (
        "default_transaction_deferrable",
    ),
    "the write path locks the rows that a foreign key would check": ("session_replication_role",),
    "the functions of the schema pass each check, and no name in them is ambiguous": (
        *("check_function_bodies", "plpgsql.check_asserts", "plpgsql.extra_errors"),
        "plpgsql.variable_conflict",
    ),
    "what neither program uses": (
        *("allow_system_table_mods", "createrole_self_grant", "debug_discard_caches"),
        *("debug_logical_replication_streaming", "dynamic_library_path", "event_triggers"),
        *("extension_control_path", "extension_destdir", "file_copy_method"),
        *("gin_fuzzy_search_limit", "gin_pending_list_limit", "lo_compat_privileges"),
        *("logical_decoding_work_mem", "maintenance_work_mem", "output_plugin_libraries"),
        *("password_encryption", "restrict_nonsystem_relation_kind", "row_security"),
        *("scram_iterations", "session_authorization", "vacuum_buffer_usage_limit"),
        *("vacuum_cost_delay", "vacuum_cost_limit", "vacuum_cost_page_dirty"),
        *("vacuum_cost_page_hit", "vacuum_cost_page_miss", "vacuum_failsafe_age"),
        *("vacuum_freeze_min_age", "vacuum_freeze_table_age"),
        *("vacuum_max_eager_freeze_failure_rate", "vacuum_multixact_failsafe_age"),
        *("vacuum_multixact_freeze_min_age", "vacuum_multixact_freeze_table_age"),
        *("vacuum_truncate", "wal_sender_timeout"),
    ),
}
"""Settings without an effect on the programs, by the reason."""

DECIDED: Final = OVERRIDDEN | RESPECTED.keys() | {n for names in HARMLESS.values() for n in names}

HURTFUL: Final = {
    "statement_timeout": "100ms",
    "lock_timeout": "1ms",
    "transaction_timeout": "100ms",
    "idle_session_timeout": "100ms",
    "idle_in_transaction_session_timeout": "20ms",
    "exit_on_error": "on",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "client_encoding": "LATIN1",
    "work_mem": "64kB",
    "temp_file_limit": "0",
    "jit": "on",
    "jit_above_cost": "0",
    "max_parallel_workers_per_gather": "1024",
    "debug_parallel_query": "regress",
    **dict.fromkeys(("enable_indexscan", "enable_indexonlyscan", "enable_nestloop"), "off"),
    "enable_partition_pruning": "off",
    "session_replication_role": "replica",
    "track_activities": "off",
    "plpgsql.extra_errors": "all",
    "DateStyle": "SQL, DMY",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "TimeZone": "Asia/Kathmandu",
}
"""Values that would do harm, together or one by one, if the programs did not override them."""


async def settings_of(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """Return the settings of a role in this version of Postgres."""
    await connection.execute(LOAD)
    rows: list[asyncpg.Record] = await connection.fetch(LIST)
    return rows


def other_values(setting: asyncpg.Record) -> Iterator[Any]:
    """Yield values other than the default: for a range, its two ends."""
    name, kind, default = setting["name"], setting["vartype"], setting["setting"]
    if name in HURTFUL:
        yield HURTFUL[name]
    elif kind == "bool":
        yield "off" if default == "on" else "on"
    elif kind == "enum":
        yield from (value for value in setting["enumvals"] if value != default)
    elif kind in {"integer", "real"}:
        yield from {setting["min_val"], setting["max_val"]} - {default}
