-- The tables and views that the public API serves, and whether row level security closes them to strangers.
-- A view has no row level security of its own: it shows what its tables show.
SELECT c.relname::text AS name, c.relkind = 'v' AS view,
  c.relrowsecurity AND NOT EXISTS (SELECT FROM pg_policy, unnest(polroles) r LEFT JOIN pg_roles ON oid = r
    WHERE polrelid = c.oid AND (r = 0 OR rolname IN ('anon', 'authenticated'))) AS closed
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
  AND (c.relname = ANY(%(names)s) OR starts_with(c.relname, 'enrichment_'))
ORDER BY c.relkind = 'v', c.relname
