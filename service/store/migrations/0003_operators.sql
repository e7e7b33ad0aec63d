-- Release 1.0.0: operators see when each key was last used, and how far replay, snapshot and rebase are.
-- oldest programs: 1
-- lock: api_keys, SHARE ROW EXCLUSIVE, momentary

CREATE TABLE api_key_uses (
    key_id text COLLATE "C" NOT NULL,
    last_used_at timestamptz NOT NULL,
    CONSTRAINT api_key_uses_pkey PRIMARY KEY (key_id),
    CONSTRAINT api_key_uses_key_fkey FOREIGN KEY (key_id) REFERENCES api_keys (id) ON DELETE CASCADE
);

CREATE TABLE outbox_tasks (
    id bigint GENERATED ALWAYS AS IDENTITY,
    kind text NOT NULL,
    parameters jsonb NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    events bigint NOT NULL DEFAULT 0,
    total bigint,
    position jsonb,
    finished_at timestamptz,
    error text,
    CONSTRAINT outbox_tasks_pkey PRIMARY KEY (id),
    CONSTRAINT outbox_tasks_kind_check CHECK (kind IN ('replay', 'snapshot', 'rebase')),
    CONSTRAINT outbox_tasks_finished_check CHECK (finished_at IS NULL OR error IS NULL)
);

CREATE TABLE outbox_pause (
    singleton boolean NOT NULL DEFAULT true,
    paused_at timestamptz NOT NULL DEFAULT now(),
    paused_by text NOT NULL,
    CONSTRAINT outbox_pause_pkey PRIMARY KEY (singleton),
    CONSTRAINT outbox_pause_singleton_check CHECK (singleton)
);

-- The service's role is the one that may update documents, the worker's the one that may insert checkpoints.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT f.privileges, f.name, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
        FROM (VALUES
            ('documents', 'SELECT', 'SELECT', 'api_key_uses'),
            ('documents', 'UPDATE', 'INSERT, UPDATE', 'api_key_uses'),
            ('outbox_checkpoints', 'SELECT', 'SELECT', 'outbox_tasks'),
            ('outbox_checkpoints', 'INSERT', 'INSERT, UPDATE, DELETE', 'outbox_tasks'),
            ('outbox_checkpoints', 'SELECT', 'SELECT', 'outbox_pause'),
            ('outbox_checkpoints', 'INSERT', 'INSERT, DELETE', 'outbox_pause')
        ) AS f (older, privilege, privileges, name)
        JOIN pg_class AS c ON c.oid = f.older::regclass
        CROSS JOIN aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
        WHERE a.privilege_type = f.privilege AND a.grantee <> current_user::regrole
    LOOP
        EXECUTE format('GRANT %s ON %I TO %s', granted.privileges, granted.name, granted.grantee);
    END LOOP;
END
$$;
