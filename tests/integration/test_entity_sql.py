"""SQL in an entity file that the database refuses is told before any record is touched, with its place and file."""

from __future__ import annotations

from pathlib import Path

import pytest

BUILT_IN = Path(__file__).parents[2] / "worker/entities"


@pytest.fixture
def files(tmp_path, env):
    """Copies of the two files that come with the worker, to be changed."""
    folder = tmp_path / "entities"
    folder.mkdir()
    for path in BUILT_IN.glob("*.toml"):
        (folder / path.name).write_text(path.read_text())
    env["WORKER_ENTITIES"] = str(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "was", "becomes", "said"),
    [
        ("company", '"r.id::text"', '"(1 / 0)::text"', "master.computed.source_record_id"),
        ("company", '"r.id::text"', '"d.enriched_at::text"', "master.computed.source_record_id"),
        ("company", '"r.id::text"', '"r.nope::text"', "company_invalid lacks nope"),
        ("people", "\\mceo\\M", "\\mceo(\\M", "the pattern"),
        ("people", "format = '^", "format = '^(", "the pattern"),
        ("people", 'entity = "company"', 'unmet = "NOT EXISTS (SELECT FROM nowhere.at_all)"', "of the entity people"),
    ],
)  # fmt: skip
def test_a_fault_is_told_by_every_command_and_nothing_is_written(
    cli, prepared, neon, files, name, was, becomes, said
) -> None:
    path = files / f"{name}.toml"
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, becomes, 1))
    for command in (["entities", "check", str(path)], ["setup"], ["pull"], ["doctor"]):
        done = cli(*command)
        assert done.returncode == 1, (command, done)
        assert said in done.stdout + done.stderr, (command, done)
        assert str(path) in done.stdout + done.stderr or "nope" in said
    assert neon.execute("SELECT count(*) AS n FROM shq_validation_log").fetchone()["n"] == 0


def test_a_sound_file_is_accepted_by_every_command(cli, prepared, files) -> None:
    for command in (["entities", "check", str(files / "people.toml")], ["setup"], ["pull"], ["doctor"]):
        done = cli(*command)
        assert done.returncode == 0, (command, done)


def test_a_master_column_that_is_not_there_is_told_by_the_check_and_left_out_by_the_worker(
    cli, prepared, files
) -> None:
    path = files / "company.toml"
    path.write_text(
        path.read_text()
        .replace('website_url = "website"', 'website_url = "website"\nnowhere = "city"')
        .replace("[master.create]", '[master.create]\nnowhere = "TEXT"')
    )
    done = cli("entities", "check", str(path))
    said = "Neon's marketing.company_master has no column nowhere, which the file fills; "
    hint = f"take it out of [master] in {path}, or add the column\n"
    assert (done.returncode, done.stdout) == (1, said + hint)
    assert cli("pull").returncode == 0


def test_wrong_files_are_told_before_any_database_is_asked(cli, databases, files) -> None:
    (files / "company.toml").write_text("plural = 1")
    for command in ("status", "pull", "doctor", "run", "setup"):
        done = cli(command)
        assert (done.returncode, "company.toml:1: plural is text, in quotes" in done.stderr) == (2, True), (
            command,
            done,
        )
