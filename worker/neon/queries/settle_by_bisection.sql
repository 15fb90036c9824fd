-- Settles what can be settled of a batch, and says why each other record is refused: PL/pgSQL, filled in by `%`.
-- Settles the batch part by part, each in a subtransaction, until every refused or locked record is alone. The cost
-- grows with the number of these; it is always one round trip. It creates no function: DDL may be forbidden. DO takes
-- its input from, and returns its answers in, settings of the transaction.
DO $enrichment$
#variable_conflict use_column
DECLARE
  the_all jsonb[] := ARRAY(SELECT jsonb_array_elements(current_setting('enrichment_worker.records')::jsonb));
  the_from int[] := ARRAY[1]; the_to int[] := ARRAY[cardinality(the_all)];
  the_first int; the_last int; the_size int; the_step int; the_again int := 0; the_waits int := 0;
  the_records jsonb; the_answer record; the_part jsonb[]; the_answers jsonb[] := '{}';
  the_code text; the_message text; the_constraint text; the_schema text; the_table text; the_column text;
BEGIN
  WHILE cardinality(the_from) > 0 LOOP
    the_first := the_from[1]; the_last := the_to[1]; the_size := the_last - the_first + 1;
    the_from := the_from[2:]; the_to := the_to[2:];
    IF the_waits > %(most_waits)s THEN
      the_answers := the_answers || ARRAY(SELECT jsonb_build_object('key', r ->> 'key', 'refused', jsonb_build_object(
        'sqlstate', %(locked)s, 'message', 'not waited for')) FROM unnest(the_all[the_first:the_last]) r);
      CONTINUE;
    END IF;
    the_records := to_jsonb(the_all[the_first:the_last]);
    BEGIN
      the_part := '{}';
      FOR the_answer IN %(settle)s LOOP
        the_part := array_append(the_part, to_jsonb(the_answer));
      END LOOP;
      the_answers := the_answers || the_part;
      CONTINUE;
    EXCEPTION WHEN OTHERS THEN
      GET STACKED DIAGNOSTICS the_code = RETURNED_SQLSTATE, the_message = MESSAGE_TEXT,
        the_constraint = CONSTRAINT_NAME, the_schema = SCHEMA_NAME, the_table = TABLE_NAME, the_column = COLUMN_NAME;
      -- A transient error concerns the whole batch, unless it is a row lock.
      IF the_code <> %(locked)s AND (left(the_code, 2) = ANY (ARRAY[%(classes)s])
          OR the_code = ANY (ARRAY[%(codes)s])) THEN
        RAISE;
      END IF;
    END;
    the_waits := the_waits + (the_code = %(locked)s)::int;
    IF the_size > 1 THEN
      -- Each locked record costs a wait on every level: split into more parts, for fewer levels.
      the_step := greatest(1, ceil(the_size / CASE WHEN the_code = %(locked)s THEN 16.0 ELSE 2.0 END)::int);
      FOR the_start IN REVERSE the_first + (the_size - 1) / the_step * the_step .. the_first BY the_step LOOP
        the_from := the_start || the_from;
        the_to := least(the_start + the_step - 1, the_last) || the_to;
      END LOOP;
    ELSIF the_constraint = %(swallowed)s AND the_again <> the_first THEN
      -- Another transaction has just inserted the master row: the next try sees it.
      the_again := the_first;
      the_from := the_first || the_from; the_to := the_last || the_to;
    ELSE
      the_answers := array_append(the_answers, jsonb_build_object('key', the_all[the_first] ->> 'key', 'refused',
        jsonb_build_object('sqlstate', the_code, 'message', the_message, 'constraint', nullif(the_constraint, ''),
          'schema', nullif(the_schema, ''), 'table', nullif(the_table, ''), 'column', nullif(the_column, ''))));
    END IF;
  END LOOP;
  PERFORM set_config('enrichment_worker.answers', to_jsonb(the_answers)::text, true);
END $enrichment$
