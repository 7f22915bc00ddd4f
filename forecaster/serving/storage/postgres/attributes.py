"""The statements that read and let go of static covariates in PostgreSQL."""

LATEST_ATTRIBUTES = """
SELECT found.payload FROM (SELECT DISTINCT unnest(%b::text[]) COLLATE "C" AS series_id) AS wanted
CROSS JOIN LATERAL (
    SELECT payload FROM forecaster.attributes AS one
    WHERE shard = %s AND one.series_id = wanted.series_id AND sequence <= %s AND NOT EXISTS (
        SELECT FROM forecaster.erasures AS gone WHERE gone.shard = one.shard AND gone.series_id = one.series_id
        AND gone.sequence > one.sequence AND gone.sequence <= %s)
    ORDER BY sequence DESC LIMIT 1) AS found
"""
PAST_ATTRIBUTES = """
SELECT found.payload FROM (SELECT DISTINCT unnest(%b::text[]) COLLATE "C" AS series_id) AS wanted
CROSS JOIN LATERAL (
    SELECT payload, sequence FROM forecaster.attributes AS one
    WHERE shard = %s AND one.series_id = wanted.series_id AND sequence <= %s AND NOT EXISTS (
        SELECT FROM forecaster.erasures AS gone WHERE gone.shard = one.shard AND gone.series_id = one.series_id
        AND gone.sequence > one.sequence AND gone.sequence <= %s) OFFSET 0) AS found
ORDER BY found.sequence
"""
# Those that were replaced by records that are gone.
OUTDATE_ATTRIBUTES = """
DELETE FROM forecaster.attributes AS old USING forecaster.attributes AS new
WHERE old.shard = %(shard)s AND new.shard = %(shard)s AND old.series_id = new.series_id
AND old.sequence < new.sequence AND new.sequence > %(after)s AND new.sequence <= %(through)s
"""
