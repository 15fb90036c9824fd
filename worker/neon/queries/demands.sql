-- Says what the master table will refuse of records that are to be flagged: PL/pgSQL. Each demand is asked of all records at
-- once. If one raises, such as a CHECK that divides by zero, it is asked record by record. Whatever a function in a CHECK
-- writes is rolled back. It creates nothing; its input and its answer are settings of the transaction.
DO $enrichment$
DECLARE
  the_records jsonb := current_setting('enrichment_worker.flagged')::jsonb;
  the_demands jsonb := {demands};
  the_query text := {query};
  the_work jsonb := '[]'; the_task jsonb; the_part jsonb; the_sound jsonb := '[]'; the_asked int[]; the_answer jsonb;
  the_code text; the_tries int := 0; the_found jsonb := '{{}}';
BEGIN
  -- An owner may have dropped or changed one since the worker started.
  the_asked := ARRAY(
    SELECT n.nr FROM (SELECT (ordinality - 1)::int AS nr, value -> 'still' AS still
      FROM jsonb_array_elements(the_demands) WITH ORDINALITY) n
    WHERE CASE WHEN n.still ? 'rule' THEN EXISTS (SELECT FROM pg_constraint c WHERE c.oid = (n.still ->> 'rule')::oid)
      ELSE EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = (n.still ->> 'table')::oid AND a.attname = n.still ->> 'column'
          AND a.atttypid = (n.still ->> 'type')::oid AND a.atttypmod = (n.still ->> 'modifier')::int
          AND (a.attnotnull OR NOT (n.still ->> 'closed')::boolean)) END ORDER BY n.nr);
  IF the_asked <> '{{}}' THEN
    the_work := jsonb_build_array(jsonb_build_object('asked', the_asked, 'of', the_records, 'first', true));
  END IF;
  WHILE jsonb_array_length(the_work) > 0 AND the_tries < {most_tries} LOOP
    the_task := the_work -> 0; the_work := the_work - 0; the_tries := the_tries + 1;
    the_asked := ARRAY(SELECT value::int FROM jsonb_array_elements_text(the_task -> 'asked'));
    the_part := coalesce(the_task -> 'of', the_sound);
    BEGIN
      EXECUTE replace(the_query, '/* demands */', coalesce((
        SELECT string_agg(format('CASE WHEN %s THEN %s END', the_demands -> nr ->> 'broken', nr), ', ' ORDER BY nr)
        FROM unnest(the_asked) nr), 'NULL::integer')) INTO the_answer USING the_part;
      RAISE SQLSTATE 'EW000';
    EXCEPTION
      WHEN SQLSTATE 'EW000' THEN
        the_sound := CASE WHEN the_asked = '{{}}' THEN the_sound || the_part ELSE the_sound END;
        the_found := the_found || coalesce((
          SELECT jsonb_object_agg(a.key, coalesce(the_found -> a.key, '{{}}') || a.states) FROM (
            SELECT key, (SELECT jsonb_object_agg(nr, the_demands -> nr::int -> 'state')
              FROM jsonb_array_elements_text(value) nr) AS states FROM jsonb_each(the_answer)) a), '{{}}');
      WHEN OTHERS THEN
        the_code := SQLSTATE;
        CASE
          WHEN the_task ? 'first' THEN
            -- Which records can be read at all; then each demand of all of these.
            the_work := jsonb_build_array(jsonb_build_object('asked', '[]'::jsonb, 'of', the_part)) || (
              SELECT jsonb_agg(jsonb_build_object('asked', jsonb_build_array(nr)) ORDER BY nr) FROM unnest(the_asked) nr);
          WHEN left(the_code, 2) = ANY (ARRAY[{not_about_records}]) THEN
            NULL;  -- it says nothing about the values: what the demand would say is not known
          WHEN jsonb_array_length(the_part) > 1 THEN
            the_work := (SELECT jsonb_agg(jsonb_build_object('asked', the_asked, 'of', jsonb_build_array(r)))
              FROM jsonb_array_elements(the_part) r) || the_work;
          WHEN the_asked <> '{{}}' THEN
            the_found := jsonb_set(the_found, ARRAY[the_part -> 0 ->> 'key'],
              coalesce(the_found -> (the_part -> 0 ->> 'key'), '{{}}') || jsonb_build_object(the_asked[1], the_code));
          ELSE NULL;  -- not even the invalid table holds its values
        END CASE;
    END;
  END LOOP;
  PERFORM set_config('enrichment_worker.demands', coalesce((
    SELECT jsonb_object_agg(f.key, jsonb_build_object('errors', e.errors, 'states', (
      SELECT jsonb_agg(DISTINCT value) FROM jsonb_each(f.value))))
    FROM jsonb_each(the_found) f
    JOIN jsonb_to_recordset(the_records) AS r (key text, told text[]) USING (key)
    CROSS JOIN LATERAL (
      SELECT coalesce(jsonb_object_agg(o.field, o.message), '{{}}') AS errors FROM (
        SELECT DISTINCT ON (s.key) s.key AS field, s.value AS message
        FROM jsonb_each(f.value) n CROSS JOIN LATERAL jsonb_each_text(the_demands -> n.key::int -> 'said') s
        WHERE s.key <> ALL (r.told) AND NOT (the_demands -> n.key::int -> 'parts_of') ?| r.told
        ORDER BY s.key, n.key::int) o) e), '{{}}')::text, true);
END $enrichment$
