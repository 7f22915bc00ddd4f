"""The tables that a PostgreSQL database holds, made on first use.

All are in the schema `forecaster`, and every row says of which shard it is: a registered model's name. Rows that an
append makes carry its sequence, and it changes no others, so that one whose fate was unknown can be undone.
"""

import psycopg

from forecaster.errors import StorageError

_VERSION = 3
_LOCK = 0x666F726563617374  # of making the tables: "forecast"

_BUNDLES = """
CREATE TABLE forecaster.bundles (
    shard text COLLATE "C", fingerprint text COLLATE "C", name text, content bytea NOT NULL,
    PRIMARY KEY (shard, fingerprint, name));
ALTER TABLE forecaster.bundles ALTER content SET STORAGE EXTERNAL, ALTER content SET STATISTICS 0;
"""
# Ids are compared by their bytes in UTF-8, which is by code points. Statistics would copy ids and values out of the
# tables; without them the planner has no idea how many rows a list of ids has, so that queries by ids are written as
# one look-up for each (LATERAL … OFFSET 0). States are in their rows up to a page, and neither states nor records are
# worth compressing on the way in.
_TABLES = """
CREATE SCHEMA IF NOT EXISTS forecaster;

CREATE TABLE forecaster.schema_version (version integer NOT NULL);

-- One row for each registered model. A write holds only under the row's token; a new owner raises it.
CREATE TABLE forecaster.leases (
    shard text COLLATE "C" PRIMARY KEY,
    token bigint NOT NULL DEFAULT 0,
    owner text NOT NULL DEFAULT '',
    expires_at timestamptz NOT NULL DEFAULT 'epoch',
    removed_through bigint NOT NULL DEFAULT 0,
    dropped_through bigint NOT NULL DEFAULT 0, -- of them without a history
    vacuum_due boolean NOT NULL DEFAULT false);

CREATE TABLE forecaster.journal (
    shard text COLLATE "C", sequence bigint, committed_us bigint NOT NULL,
    first_us bigint NOT NULL, last_us bigint NOT NULL, payload bytea NOT NULL,
    PRIMARY KEY (shard, sequence));
ALTER TABLE forecaster.journal ALTER payload SET STORAGE EXTERNAL, ALTER payload SET STATISTICS 0;

CREATE TABLE forecaster.history (
    shard text COLLATE "C", sequence bigint, committed_us bigint NOT NULL,
    first_us bigint NOT NULL, last_us bigint NOT NULL, payload bytea NOT NULL,
    PRIMARY KEY (shard, sequence));
ALTER TABLE forecaster.history ALTER payload SET STATISTICS 0;

-- Records come about in the order of their times: some bytes for each stretch of pages tell where a time may be.
CREATE INDEX journal_times ON forecaster.journal
    USING brin (first_us, last_us) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX history_times ON forecaster.history
    USING brin (first_us, last_us) WITH (pages_per_range = 32, autosummarize = on);

CREATE VIEW forecaster.records AS SELECT * FROM forecaster.history UNION ALL SELECT * FROM forecaster.journal;

CREATE TABLE forecaster.attributes (
    shard text COLLATE "C", series_id text COLLATE "C", sequence bigint, payload bytea NOT NULL,
    PRIMARY KEY (shard, series_id, sequence));
ALTER TABLE forecaster.attributes ALTER series_id SET STATISTICS 0, ALTER payload SET STATISTICS 0;

CREATE TABLE forecaster.erasures (
    shard text COLLATE "C", series_id text COLLATE "C", sequence bigint, scanned bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (shard, series_id, sequence));
ALTER TABLE forecaster.erasures ALTER series_id SET STATISTICS 0;

CREATE TABLE forecaster.snapshots (
    shard text COLLATE "C", series_id text COLLATE "C", fingerprint text COLLATE "C", sequence bigint NOT NULL,
    checksum bigint NOT NULL, state bytea NOT NULL,
    PRIMARY KEY (shard, series_id, fingerprint)) WITH (toast_tuple_target = 8160);
ALTER TABLE forecaster.snapshots ALTER state SET STORAGE EXTERNAL,
    ALTER series_id SET STATISTICS 0, ALTER state SET STATISTICS 0;

CREATE TABLE forecaster.complete_snapshots (
    shard text COLLATE "C", fingerprint text COLLATE "C", sequence bigint NOT NULL, PRIMARY KEY (shard, fingerprint));

CREATE TABLE forecaster.active (
    shard text COLLATE "C" PRIMARY KEY, version text NOT NULL, fingerprint text NOT NULL);

-- KEY SHARE: renewals, which leave the token alone, do not wait for writes; who raises the token does (FOR UPDATE), and
-- sees all that was committed under the old one. The clock has no say: what runs out is the others' duty to wait.
CREATE FUNCTION forecaster.check_lease(wanted_shard text, wanted_token bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM forecaster.leases WHERE shard = wanted_shard AND token = wanted_token FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another server holds the lease' USING ERRCODE = 'FC001';
    END IF;
END $$;
"""
_UPGRADES = {  # from a version
    1: "ALTER TABLE forecaster.leases ADD COLUMN dropped_through bigint NOT NULL DEFAULT 0",
    2: _BUNDLES,
}
FENCED = "FC001"  # the SQLSTATE of `check_lease`


def prepare(connection: psycopg.Connection, label: str) -> None:
    """Make the tables where there are none, or bring them up to date, by a connection that is closed afterwards.

    Raises StorageError if they are of a later version, or the database cannot hold ids of all scripts, and
    psycopg.Error.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StorageError(f"{label}: its encoding is {encoding}: make a database with ENCODING 'UTF8'")
    version = _version(connection)
    if version is None or version in _UPGRADES:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))  # until the connection is closed
        with connection.transaction():
            version = _make(connection)
    if version != _VERSION:
        raise StorageError(f"{label}: its tables are of version {version}, this server knows {_VERSION}")


def _make(connection: psycopg.Connection) -> int:
    """Make the tables, or those of today of an earlier version's; return the version that they are of then."""
    version = _version(connection)  # another server may just have done it
    if version is None:
        connection.execute(_TABLES)
        connection.execute(_BUNDLES)
        connection.execute("INSERT INTO forecaster.schema_version VALUES (%s)", (_VERSION,))
        return _VERSION
    while version in _UPGRADES:
        connection.execute(_UPGRADES[version])
        version += 1
        connection.execute("UPDATE forecaster.schema_version SET version = %s", (version,))
    return version


def _version(connection: psycopg.Connection) -> int | None:
    there = connection.execute("SELECT to_regclass('forecaster.schema_version') IS NOT NULL").fetchone()
    if there is None or not there[0]:
        return None
    found = connection.execute("SELECT version FROM forecaster.schema_version").fetchone()
    return int(found[0]) if found else None
