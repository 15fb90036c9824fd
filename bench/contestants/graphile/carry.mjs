// graphile-worker, as its documentation recommends for speed: the library's run(), a local queue, completions and failures
// written in batches, and batch jobs: a job has an array of keys, and its task answers with a promise for each.
//
// The rules are those of SPEC 4 as far as the bench's records need them: less than the others apply, in its favour. The
// statements are those of the other queues' handler, given by the launcher with their parameters' names.

import { createRequire } from "node:module";
import { join } from "node:path";

const installed = createRequire(join(process.env.BENCH_GRAPHILE_FOLDER, "package.json"));
const { Logger, run, runMigrations } = installed("graphile-worker");
const pg = installed("pg");

const { statements, columns, settings } = JSON.parse(process.env.BENCH_GRAPHILE);
const PLACEHOLDER_NAMES = new Set(["test", "example", "n/a", "none", "null"]);
const PLACEHOLDER_SITES = new Set(["test", "n/a", "none", "null", "test.com", "example.com"]);
const PHONE = /^(?:\+?1)?([2-9]\d{9})$/;

/** Blanks trimmed, a bare host with https://, the phone in E.164. */
function normalised(row) {
  const data = {};
  for (const column of columns) {
    const value = row[column];
    data[column] = typeof value === "string" ? value.trim() || null : value;
  }
  const phone = PHONE.exec((data.phone ?? "").replace(/[^\d+]/g, ""));
  if (phone) data.phone = `+1${phone[1]}`;
  if (data.website && !PLACEHOLDER_SITES.has(data.website.toLowerCase())) {
    const address = /^[a-z][a-z0-9+.-]*:\/\//i.test(data.website) ? data.website : `https://${data.website}`;
    if (URL.canParse(address)) {
      const url = new URL(address);
      data.website = url.pathname === "/" && !url.search && !url.hash ? url.origin : url.href;
      data.domain = url.hostname.replace(/^www\./, "");
    }
  }
  return data;
}

/** The errors in the order of the rules, each with its reason code, and the warnings. */
function judged(data) {
  const errors = {};
  const warnings = {};
  let reason = null;
  const refuse = (field, code, message) => {
    errors[field] = message;
    reason ??= code;
  };
  const name = data.company_name ?? "";
  if (!name) refuse("company_name", "EMPTY_COMPANY_NAME", "empty or blank");
  else if (PLACEHOLDER_NAMES.has(name.toLowerCase())) refuse("company_name", "PLACEHOLDER_COMPANY_NAME", "is a placeholder");
  else if (name.length < 2) refuse("company_name", "SHORT_COMPANY_NAME", "is too short");
  if (!data.website) refuse("website", "EMPTY_WEBSITE", "empty or blank");
  else if (PLACEHOLDER_SITES.has(data.website.toLowerCase())) refuse("website", "PLACEHOLDER_WEBSITE", "is a placeholder");
  else if (!/^https?:\/\/[^/]+\.[^/]+/.test(data.website)) refuse("website", "INVALID_WEBSITE", "is no web address");
  if (!data.industry) warnings.industry = "is missing";
  if (!data.employee_count) warnings.employee_count = "is missing or zero";
  if (!data.phone) warnings.phone = "is missing";
  return { errors, warnings, reason };
}

const preset = {
  worker: {
    connectionString: process.env.SUPABASE_DATABASE_URL,
    concurrentJobs: settings.concurrency,
    maxPoolSize: settings.concurrency + 1,
    localQueue: { size: settings.local_queue },
    completeJobBatchDelay: settings.batch_delay,
    failJobBatchDelay: settings.batch_delay,
    logger: new Logger(() => (level, message) => {
      if (level === "error") process.stderr.write(`${message}\n`);
    }),
  },
};

if (process.argv[2] === "install") {
  await runMigrations({ preset });
} else {
  const pool = (connectionString) => new pg.Pool({ connectionString, max: settings.pool, min: settings.pool });
  const supabase = pool(process.env.SUPABASE_DATABASE_URL);
  const neon = pool(process.env.NEON_DATABASE_URL);
  for (const one of [supabase, neon]) {
    const clients = await Promise.all(Array.from({ length: settings.pool }, () => one.connect()));
    for (const client of clients) client.release();
  }
  const execute = (on, name, params) => {
    const [text, names] = statements[name];
    return on.query({ name, text, values: names.map((one) => params[one]) }); // a name: prepared once a connection
  };

  const carry = async (key) => {
    const row = (await execute(supabase, "READ", { key })).rows[0];
    if (!row) return;
    const data = normalised(row);
    const { errors, warnings, reason } = judged(data);
    const passed = reason === null;
    const params = {
      ...data,
      key,
      enriched_by: row.enriched_by,
      errors: JSON.stringify(errors),
      warnings: JSON.stringify(warnings),
      reason_code: reason,
      status: passed ? "complete" : "failed",
      note: passed ? "Promoted to the master table." : "Not promoted; see validation_errors.",
    };
    await execute(neon, passed ? "PROMOTE" : "FLAG", params);
    await execute(supabase, "ACKNOWLEDGE", params);
  };

  const runner = await run({ preset, noHandleSignals: true, taskList: { carry: (keys) => keys.map(carry) } });
  const stop = () => runner.stop().then(() => process.exit(0), () => process.exit(1));
  process.on("SIGTERM", stop);
  process.stdout.write("ready\n");
  await runner.promise;
}
