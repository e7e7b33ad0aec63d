"""All that a schema consists of, read from the catalogues: to compare two databases object by object."""

from typing import Final

import asyncpg

OF_SCHEMA: Final = "n.oid = current_schema()::regnamespace"

OBJECTS: Final = {
    "relation": f"""
        SELECT c.oid::regclass, c.relkind, c.relpersistence, c.relreplident, c.relrowsecurity,
            c.relforcerowsecurity, c.reloptions, c.relacl, c.relowner::regrole, am.amname,
            c.reltablespace, c.relispartition,
            pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid),
            CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_am AS am ON am.oid = c.relam
        WHERE {OF_SCHEMA}
    """,
    # Postgres 15.20 keeps a stamp of its own, pg_attver, among the options of each column.
    "column": f"""
        SELECT c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
            a.attgenerated, a.attcollation::regcollation, a.attstorage, a.attcompression,
            nullif(a.attstattarget, -1),
            ARRAY(SELECT o FROM unnest(a.attoptions) AS o WHERE o !~ '^pg_attver=' ORDER BY o),
            a.attacl, a.attislocal, a.attinhcount, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute AS a
        JOIN pg_class AS c ON c.oid = a.attrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE {OF_SCHEMA} AND a.attnum > 0 AND NOT a.attisdropped
    """,
    "constraint": f"""
        SELECT x.conrelid::regclass, x.conname, x.contype, x.condeferrable, x.condeferred, x.convalidated,
            x.conislocal, x.connoinherit, pg_get_constraintdef(x.oid)
        FROM pg_constraint AS x
        JOIN pg_namespace AS n ON n.oid = x.connamespace
        WHERE {OF_SCHEMA}
    """,
    "index": f"""
        SELECT pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, i.indisprimary, i.indisunique,
            i.indisclustered, i.indisreplident, i.indimmediate
        FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE {OF_SCHEMA}
    """,
    "function": f"""
        SELECT pg_get_functiondef(p.oid), p.proacl, p.proowner::regrole
        FROM pg_proc AS p
        JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE {OF_SCHEMA} AND p.prokind <> 'a'
    """,
    "type": f"""
        SELECT t.oid::regtype, t.typtype, t.typacl, t.typowner::regrole, t.typnotnull, t.typdefault,
            format_type(t.typbasetype, t.typtypmod),
            ARRAY(SELECT enumlabel FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder)
        FROM pg_type AS t
        JOIN pg_namespace AS n ON n.oid = t.typnamespace
        WHERE {OF_SCHEMA}
    """,
    # The columns of a composite type are passed as a row, so that their order matters.
    "attribute": f"""
        SELECT c.relname,
            array_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
        FROM pg_attribute AS a
        JOIN pg_class AS c ON c.oid = a.attrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE {OF_SCHEMA} AND c.relkind = 'c' AND NOT a.attisdropped
        GROUP BY c.oid
    """,
    "sequence": f"""
        SELECT s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax, s.seqmin,
            s.seqcache, s.seqcycle, pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
        FROM pg_sequence AS s
        JOIN pg_class AS c ON c.oid = s.seqrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_depend AS d ON d.objid = c.oid AND d.deptype IN ('a', 'i')
        WHERE {OF_SCHEMA}
    """,
    "trigger": """
        SELECT pg_get_triggerdef(oid), tgenabled
        FROM pg_trigger
        WHERE NOT tgisinternal
    """,
    "rule": "SELECT schemaname, tablename, definition FROM pg_rules WHERE schemaname = current_schema()",
    "policy": "SELECT polrelid::regclass, polname, polcmd, polpermissive, polroles FROM pg_policy",
    "statistics": "SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext",
    "publication": "SELECT pubname, puballtables FROM pg_publication",
    "extension": "SELECT extname, extversion FROM pg_extension",
    "namespace": "SELECT nspname, nspacl FROM pg_namespace WHERE nspname !~ '^pg_'",
    "default privilege": "SELECT defaclrole::regrole, defaclobjtype, defaclacl FROM pg_default_acl",
    "setting": """
        SELECT setrole, setconfig
        FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    """,
    # A large number: objects that the server came with.
    "comment": """
        SELECT pg_describe_object(classoid, objoid, objsubid), description
        FROM pg_description
        WHERE objoid >= 16384
    """,
}
"""What an object of each kind is compared by. Oids, and the order of a table's columns, may differ."""


async def objects(connection: asyncpg.Connection) -> set[tuple[str, str]]:
    """Return each object's kind and its description."""
    return {
        (kind, row[0])
        for kind, query in OBJECTS.items()
        for row in await connection.fetch(f"SELECT q::text FROM ({query}) AS q")
    }
