-- Why rows failed: each reason with its number of records, and the keys and fields of the latest ones.
(SELECT {name} AS entity, g.code, g.carried, g.records, latest.keys, latest.fields
FROM (SELECT left(split_part(coalesce(reason_code, ''), ' ', 1), 64) AS code, pushed_to_neon_at IS NOT NULL AS carried,
        count(*) AS records
      FROM {workspace} WHERE enrichment_status = 'failed' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT {limit}) g
  CROSS JOIN LATERAL (
    SELECT array_agg(l.key ORDER BY l.updated_at DESC) AS keys,
      array_agg(DISTINCT f.field) FILTER (WHERE f.field = ANY({fields})) AS fields
    FROM (SELECT {key}{key_text} AS key, updated_at, validation_errors AS errors FROM {workspace}
          WHERE enrichment_status = 'failed' AND left(split_part(coalesce(reason_code, ''), ' ', 1), 64) = g.code
            AND (pushed_to_neon_at IS NOT NULL) = g.carried
          ORDER BY updated_at DESC LIMIT {latest}) l
      LEFT JOIN LATERAL jsonb_object_keys(
        CASE WHEN jsonb_typeof(l.errors) = 'object' THEN l.errors ELSE '{{}}' END) f (field) ON true) latest)
