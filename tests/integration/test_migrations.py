"""``setup --migrations``: Supabase's part as a file that Supabase's own migration tool replays. SPEC 7."""

from __future__ import annotations

import re

import pytest
from records import add_companies, company, complete, everything, work

PARTS = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\"[^\"]*\"|(\$\w*\$).*?\1|;|[^;'\"$-]+|.", re.DOTALL)


def statements(text: str) -> list[str]:
    """As a migration tool splits a file: at each semicolon that is in no comment, text, name or body."""
    found = [""]
    for part in PARTS.finditer(text):
        found[-1] += part[0]
        if part[0] == ";":
            found.append("")
    return [one for one in found if re.sub(r"--[^\n]*", "", one).strip()]


@pytest.mark.parametrize("kind", ["missing", "a file", "not writable"])
def test_a_folder_that_takes_no_file_is_named_in_one_line(cli, databases, tmp_path, kind) -> None:
    (tmp_path / "a file").touch()
    folder = "/proc" if kind == "not writable" else str(tmp_path / kind)
    done = cli("setup", "--migrations", folder)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert folder in done.stderr
    done = cli("setup", "--migrations", str(tmp_path), "--dry-run")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_the_file_makes_what_setup_makes_statement_by_statement_and_twice(
    cli, databases, env, neon, supabase, tmp_path
) -> None:
    addresses = {name: env.pop(name) for name in list(env) if name.endswith("_DATABASE_URL")}
    written = cli("setup", "--migrations", str(tmp_path))
    assert written.returncode == 0, written.stderr
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"20\d{12}_enrichment_worker\.sql", file.name)
    assert written.stdout == f"wrote {file}\n"
    again = cli("setup", "--migrations", str(tmp_path))
    assert (again.returncode, again.stdout) == (0, f"{file} has it already; nothing was written\n")
    assert list(tmp_path.iterdir()) == [file]

    env |= addresses
    parts = statements(file.read_text())
    assert len(parts) > 40
    assert not [one for one in parts if one.strip().upper() in ("BEGIN;", "COMMIT;")]
    for one in parts:
        supabase.execute(one.encode())
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\nSupabase: everything is in place\n")

    add_companies(neon, 1)
    assert cli("pull").returncode == 0
    complete(supabase, company(1), website="a.example")
    before = everything(supabase)
    for one in parts:
        supabase.execute(one.encode())
    assert everything(supabase) == before
    assert cli("pipeline", "--yes").returncode == 0
    assert work(supabase, company(1))["promoted_at"]


def test_a_file_that_says_something_else_is_left_and_a_new_one_comes_after_it(cli, databases, env, tmp_path) -> None:
    assert cli("setup", "--migrations", str(tmp_path)).returncode == 0
    (old,) = tmp_path.iterdir()
    old.write_text("-- of an earlier release\n")
    assert cli("setup", "--migrations", str(tmp_path)).returncode == 0
    first, second = sorted(tmp_path.iterdir())
    assert (first, first.read_text()) == (old, "-- of an earlier release\n")
    assert "CREATE TABLE" in second.read_text()
    assert first.name[:14] < second.name[:14], "the tool tells migrations apart by their time"
