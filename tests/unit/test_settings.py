"""What the operator sets, from where, and what is refused, by name. SPEC 8."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest
from conftest import _environment
from psycopg.conninfo import conninfo_to_dict

from worker.postgres.address import safe_address
from worker.settings import SECRETS, Settings, SettingsError, is_remote, load_settings

NEON = "postgresql://ana:hunter2@ep-x-pooler.eu.aws.neon.example/neon"
SUPABASE = "postgresql://postgres.ref:hunter2@eu.pooler.supabase.com:5432/postgres"
LOCAL = "postgresql://postgres@127.0.0.1:5432/neon"
Load = Callable[..., Settings]


@pytest.fixture
def load(monkeypatch, tmp_path) -> Load:
    """Loads with the two addresses and what is given; None takes one away. The first argument is ``.env``."""
    for name in os.environ.keys() - _environment({}).keys():
        monkeypatch.delenv(name)

    def with_these(dotenv: str = "", /, **environment: str | None) -> Settings:
        file = tmp_path / ".env"
        file.write_text(dotenv, encoding="utf-8")
        for name, value in {"NEON_DATABASE_URL": NEON, "SUPABASE_DATABASE_URL": SUPABASE, **environment}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        return load_settings(file)

    return with_these


def faults(load: Load, *dotenv: str, **environment: str | None) -> list[str]:
    """What is wrong, and in all of it no password."""
    with pytest.raises(SettingsError) as caught:
        load(*dotenv, **environment)
    assert str(caught.value) == "\n".join(caught.value.faults)
    assert "hunter2" not in str(caught.value)
    return caught.value.faults


def test_two_addresses_are_enough_and_the_rest_has_defaults(load) -> None:
    found = load()
    assert (found.neon_database_url, found.supabase_database_url) == (NEON, SUPABASE)
    assert (found.pull_interval, found.sweep_interval, found.batch_size) == (3600.0, 5.0, 500)
    assert (found.health_host, found.health_port) == ("127.0.0.1", 8080)
    assert found.allow_insecure is False
    assert found.listen_conninfo == found.supabase_conninfo
    assert (found.supabase_url, found.supabase_api_key, found.n8n_webhook_url) == (None, None, None)


@pytest.mark.parametrize("in_file", [True, False])
def test_an_address_by_the_name_that_other_scripts_give_it_is_named(load, in_file) -> None:
    missing = {"NEON_DATABASE_URL": None, "SUPABASE_DATABASE_URL": None}
    others = {"DATABASE_URL": NEON, "SUPABASE_DB_URL": SUPABASE}
    text = "".join(f"{name}={value}\n" for name, value in others.items()) if in_file else ""
    assert faults(load, text, **missing, **({} if in_file else others)) == [
        "NEON_DATABASE_URL: is required; DATABASE_URL is set: give it the name NEON_DATABASE_URL",
        "SUPABASE_DATABASE_URL: is required; SUPABASE_DB_URL is set: give it the name SUPABASE_DATABASE_URL",
    ]
    assert load("", **others).neon_database_url == NEON, "and where both are set, ours counts"


def test_a_listen_address_of_its_own_is_used_for_listening_only(load) -> None:
    found = load(SUPABASE_LISTEN_URL="postgresql://127.0.0.1:5433/postgres")
    assert conninfo_to_dict(found.listen_conninfo)["port"] == "5433"
    assert conninfo_to_dict(found.supabase_conninfo)["port"] == "5432"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("1d", 86400), ("0.5", 0.5), ("200ms", 0.2), (" 2 H ", 7200)],
)
@pytest.mark.parametrize("name", ["WORKER_PULL_INTERVAL", "WORKER_SWEEP_INTERVAL"])
def test_a_time_is_read_with_and_without_its_unit(load, name, written, seconds) -> None:
    assert getattr(load(**{name: written}), name.removeprefix("WORKER_").lower()) == seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKER_PULL_INTERVAL", "soon"), ("WORKER_PULL_INTERVAL", "0"), ("WORKER_PULL_INTERVAL", "-5"),
        ("WORKER_PULL_INTERVAL", "5 weeks"), ("WORKER_SWEEP_INTERVAL", "nan"), ("WORKER_SWEEP_INTERVAL", "1h30m"),
        ("WORKER_BATCH_SIZE", "0"), ("WORKER_BATCH_SIZE", "10001"), ("WORKER_BATCH_SIZE", "many"),
        ("WORKER_BATCH_SIZE", "1.5"), ("WORKER_HEALTH_ADDRESS", "8080"), ("WORKER_HEALTH_ADDRESS", "localhost"),
        ("WORKER_HEALTH_ADDRESS", "127.0.0.1:65536"), ("WORKER_HEALTH_ADDRESS", "::1:8080"),
        ("WORKER_HEALTH_ADDRESS", "127.0.0.1:http"), ("WORKER_LOG_FORMAT", "xml"), ("WORKER_ALLOW_INSECURE", "maybe"),
        ("NEON_DATABASE_URL", "host=localhost"), ("N8N_WEBHOOK_URL", "https://ana:hunter2@exa\u2100mple.com/hook"),
        ("NEON_DATABASE_URL", "mysql://ana:hunter2@localhost/neon"),
        ("NEON_DATABASE_URL", "postgresql://ana:hunter2@[::1/neon"),
        ("SUPABASE_DATABASE_URL", "postgresql://ana:hunter2@localhost/p?no_such_option=1"),
        ("SUPABASE_LISTEN_URL", "postgresql://ana:hunter2%zz@localhost/p"),
        ("SUPABASE_URL", "ref.supabase.co"), ("N8N_WEBHOOK_URL", "ftp://ana:hunter2@n8n.example/hook"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name_in_one_line(load, name, value) -> None:
    (fault,) = faults(load, **{name: value})
    assert fault.startswith(f"{name}: ")
    assert "\n" not in fault


@pytest.mark.parametrize("size", [1, 10_000])
def test_a_batch_may_be_as_small_as_one_and_as_large_as_ten_thousand(load, size) -> None:
    assert load(WORKER_BATCH_SIZE=str(size)).batch_size == size


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        (":80", "0.0.0.0", 80),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("[::1]:8080", "::1", 8080),
        ("localhost:0", "localhost", 0),
    ],
)
def test_a_health_address_is_host_and_port(load, written, host, port) -> None:
    found = load(WORKER_HEALTH_ADDRESS=written)
    assert (found.health_host, found.health_port) == (host, port)


@pytest.mark.parametrize(("terminal", "format_"), [(True, "console"), (False, "json")])
def test_the_log_is_for_the_eye_where_stderr_is_a_terminal(load, monkeypatch, terminal, format_) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert load().log_format == format_
    assert load(WORKER_LOG_FORMAT="json").log_format == "json"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("https://ref.supabase.co", "Connect page"),
        ("postgresql://postgres:[YOUR-PASSWORD]@db.ref.supabase.co:5432/postgres", "[YOUR-PASSWORD]"),
        ("postgresql://postgres:[YOUR_PASSWORD]@db.ref.supabase.co:5432/postgres", "[YOUR_PASSWORD]"),
        ("postgresql://ana:hunter2%zz@db.ref.supabase.co/postgres", "percent-encoded"),
        ("postgresql://ana:hunter2@eu.pooler.supabase.com:6543/postgres", "port 5432"),
    ],
)
def test_a_slip_in_an_address_is_told_with_its_fix(load, value, said) -> None:
    (fault,) = faults(load, SUPABASE_LISTEN_URL=value)
    assert fault.startswith("SUPABASE_LISTEN_URL: ")
    assert said in fault


def test_the_transaction_pooler_is_refused_for_listening_also_where_it_is_only_the_default(load) -> None:
    pooled = SUPABASE.replace(":5432", ":6543")
    (fault,) = faults(load, SUPABASE_DATABASE_URL=pooled)
    assert fault.startswith("SUPABASE_LISTEN_URL: ")
    assert load(SUPABASE_DATABASE_URL=pooled, SUPABASE_LISTEN_URL=SUPABASE).supabase_database_url == pooled


@pytest.mark.parametrize("ports", ["6543,6543", "5432,6543"])
def test_one_transaction_pooler_among_several_hosts_is_one_too_many(load, ports) -> None:
    (fault,) = faults(load, SUPABASE_LISTEN_URL=f"postgresql://a.example,b.example/p?port={ports}")
    assert fault.startswith("SUPABASE_LISTEN_URL: ")


def test_the_transaction_pooler_is_told_beside_other_faults(load) -> None:
    told = faults(load, SUPABASE_DATABASE_URL=SUPABASE.replace(":5432", ":6543"), WORKER_BATCH_SIZE="0")
    assert [fault.partition(":")[0] for fault in told] == ["WORKER_BATCH_SIZE", "SUPABASE_LISTEN_URL"]


def test_a_password_may_hold_brackets(load) -> None:
    url = "postgresql://ana:hun[TER]2@127.0.0.1/neon"
    assert load(NEON_DATABASE_URL=url).neon_database_url == url


MALFORMED = [
    "postgresql://ana:hun/ter2@db.example/n",
    "postgresql://ana:/hunter2@db.example/n",
    "postgresql://ana:hun@hunter2@db.example/n",
    "postgresql://ana:hunter2@@db.example/n",
    "postgresql://ana:hunter2/x?y@db.example/n",
    "postgresql://ana:x@hunter2?y=z@db.example/n",
    "postgresql://ana:x/y?hunter2=z@db.example/n",
    "postgresql://ana:hunter2 x@db.example/n",
    "postgresql://ana:hunter2 @db.example/n",
    "postgresql://ana:hunter2%@db.example/n",
    "postgresql://ana:hunter2%zz@db.example/n",
    "postgresql://ana@corp:hunter2@db.example/n",
    "postgresql://ana:hunter2",
    "postgresql://ana:x@db.example:hunter2/n",
    "postgresql://ana:x@db.example:99999/n?password=hunter2",
    "postgresql:///ana:hunter2@db.example/n",
    "postgresql:ana:hunter2@db.example/n",
    "ana:hunter2@db.example/n",
    "host=ana:hunter2@db.example dbname=n",
    "host=db.example dbname=n password=x hunter2",
    "host=db.example dbname=n password=x hunter2=y",
    "password=hunter2 host=db.example",
]


@pytest.mark.parametrize("name", ["NEON_DATABASE_URL", "SUPABASE_DATABASE_URL", "SUPABASE_LISTEN_URL"])
@pytest.mark.parametrize("value", MALFORMED)
def test_nothing_of_an_address_that_cannot_be_meant_is_shown(load, name, value) -> None:
    (fault,) = faults(load, **{name: value})  # which looks for the password in it
    assert fault.startswith(f"{name}: ")
    assert "db.example" not in fault
    assert "ana" not in fault


@pytest.mark.parametrize("character", "/@% ")
def test_the_hint_says_how_a_character_is_written_that_must_be_encoded(load, character) -> None:
    (fault,) = faults(load, NEON_DATABASE_URL=f"postgresql://ana:hun{character}ter2@db.example/n")
    assert "percent-encoded" in fault


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ana:hunter2%40%2F%3F%23%25%3A%20%C3%B6@127.0.0.1/n",
        "postgresql://ana:hunter2?#:[x]ö!$&'()*+,;=@127.0.0.1/n",
        "postgresql://ana:hunter2@127.0.0.1,localhost/n",
        "postgresql://ana:hunter2@127.0.0.1:5432,localhost:5433/n?target_session_attrs=read-write",
        "postgresql://ana:hunter2@[::1]:5432/n",
        "postgresql://ana:hunter2@[::1],127.0.0.1/n",
        "postgresql://%2Frun%2Fpostgresql/n",
        "postgresql:///n?host=/run/postgresql&user=ana@corp",
        "postgresql:///n?host=@abstract",
        "postgresql:///n?service=near&host=localhost",
        "postgresql://ana:hunter2@127.0.0.1/Marketing%20DB",
        "postgresql://ana:hunter2@127.0.0.1/n?options=-c%20work_mem%3D8MB&application_name=me%40x&channel_binding=prefer",
        "postgres://ana:hunter2@localhost/n?ssl=true",
        "postgresql://ana:hunter2@localhost:/n",
        "host=localhost port=5432 dbname=n user=ana password=hunter2",
        "host='/run/postgresql' dbname='Marketing DB' password='hun ter@2/'",
        "hostaddr=::1 dbname=n",
    ],
)
def test_an_address_that_can_be_meant_is_taken_as_it_is(load, url) -> None:
    found = load(NEON_DATABASE_URL=url, SUPABASE_DATABASE_URL=url)
    assert found.neon_conninfo == found.listen_conninfo == url


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("pgbouncer=true", "parameter pgbouncer,"),
        ("sslmode=require&pgbouncer=true&connection_limit=1", "parameters pgbouncer, connection_limit,"),
        ("schema=marketing", "parameter schema,"),
        ("uselibpqcompat=true&sslmode=require", "parameter uselibpqcompat,"),
    ],
)
def test_a_parameter_that_libpq_does_not_know_is_named_as_that(load, query, said) -> None:
    (fault,) = faults(load, NEON_DATABASE_URL=f"postgresql://ana:hunter2@db.example/n?{query}")
    assert said in fault
    assert "take" in fault
    assert "percent" not in fault


def test_a_tls_mode_that_there_is_none_of_is_told(load) -> None:
    (fault,) = faults(load, NEON_DATABASE_URL=f"{NEON}?sslmode=no-verify")
    assert "verify-full" in fault


def test_every_fault_is_told_not_only_the_first(load) -> None:
    told = faults(
        load, NEON_DATABASE_URL=None, SUPABASE_DATABASE_URL="mysql://x", WORKER_BATCH_SIZE="0", WORKER_BATCH="1",
        SUPABASE_API_KEY_FILE="/no/such/file",
    )  # fmt: skip
    assert {fault.partition(":")[0] for fault in told} == {
        "NEON_DATABASE_URL", "SUPABASE_DATABASE_URL", "WORKER_BATCH_SIZE", "WORKER_BATCH", "SUPABASE_API_KEY_FILE",
    }  # fmt: skip


def test_what_is_required_and_missing_is_named(load) -> None:
    told = faults(load, NEON_DATABASE_URL=None, SUPABASE_DATABASE_URL="")
    assert [fault.partition(":")[0] for fault in told] == ["NEON_DATABASE_URL", "SUPABASE_DATABASE_URL"]
    assert all("required" in fault for fault in told)


@pytest.mark.parametrize("in_dotenv", [True, False])
def test_an_unknown_worker_setting_is_refused_with_the_nearest_name(load, in_dotenv) -> None:
    wrong = "WORKER_PULL_INTREVAL"
    (fault,) = faults(load, f"{wrong}=5") if in_dotenv else faults(load, **{wrong: "5"})
    assert fault.startswith(f"{wrong}: ")
    assert fault.endswith("did you mean WORKER_PULL_INTERVAL?")


def test_other_programs_settings_are_none_of_the_workers_business(load) -> None:
    assert load("PGPASSWORD=hunter2\nDEBUG=1", N8N_PORT="5678").batch_size == 500


def address(name: str) -> str:
    return f"postgresql://127.0.0.1/{name}"


def test_sources_come_in_the_promised_order(load, monkeypatch, tmp_path) -> None:
    # Each source is laid over the one before it.
    assert load(f"NEON_DATABASE_URL={address('dotenv')}", NEON_DATABASE_URL=None).neon_database_url == address("dotenv")
    dotenv = (tmp_path / ".env").read_text()

    (tmp_path / "NEON_DATABASE_URL").write_text(address("credential"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load(dotenv, NEON_DATABASE_URL=None).neon_database_url == address("credential")

    (tmp_path / "secret").write_text(address("file"))
    monkeypatch.setenv("NEON_DATABASE_URL_FILE", str(tmp_path / "secret"))
    assert load(dotenv, NEON_DATABASE_URL=None).neon_database_url == address("file")

    assert load(dotenv, NEON_DATABASE_URL=address("environment")).neon_database_url == address("environment")


def test_in_one_source_the_value_comes_before_the_file(load, tmp_path) -> None:
    (tmp_path / "secret").write_text(address("file"))
    both = f"NEON_DATABASE_URL={address('dotenv')}\nNEON_DATABASE_URL_FILE={tmp_path / 'secret'}"
    assert load(both, NEON_DATABASE_URL=None).neon_database_url == address("dotenv")


VALUES = {
    "NEON_DATABASE_URL": LOCAL,
    "SUPABASE_DATABASE_URL": LOCAL,
    "SUPABASE_LISTEN_URL": LOCAL,
    "SUPABASE_API_KEY": "anon-key",
    "N8N_WEBHOOK_URL": "https://n8n.example/hook",
    "N8N_WEBHOOK_TOKEN": "token-of-nobody",
    "N8N_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("hunter2", "does not begin with whsec_"),
        ("whsec_hunter2!", "is no base64 after whsec_"),
        ("whsec_hunter2_hunter2-hunter2_hunter2-", "is no base64 after whsec_"),
        ("whsec_hunter2=", "has 5 bytes, and 24 to 64 are needed"),
        ("whsec_" + "hunter2+" * 11, "has 66 bytes, and 24 to 64 are needed"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_hunter2!", "is no base64 after whsec_"),
        (" ", "holds no secret"),
    ],
)
def test_a_secret_that_cannot_sign_is_refused_by_name_and_not_shown(load, value, said) -> None:
    (fault,) = faults(load, N8N_WEBHOOK_SECRET=value)
    assert fault.startswith(f"N8N_WEBHOOK_SECRET: {said}")


def test_these_are_the_secrets() -> None:
    assert set(SECRETS) == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("source", ["environment", "credential", "dotenv"])
def test_every_secret_may_come_from_a_file(load, monkeypatch, tmp_path, name, source) -> None:
    (tmp_path / name).write_text(f" {VALUES[name]}\n")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if source == "credential":
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    here = {f"{name}_FILE": str(tmp_path / name)} if source == "environment" else {}
    found = load(f"{name}_FILE={tmp_path / name}" if source == "dotenv" else "", **{name: None}, **here)
    assert getattr(found, name.lower()) == VALUES[name]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00hunter2"])
def test_a_secret_file_that_cannot_be_read_is_named(load, tmp_path, content) -> None:
    path = tmp_path / "key"
    if content:
        path.write_bytes(content)
    (fault,) = faults(load, SUPABASE_API_KEY_FILE=str(path))
    assert fault.startswith("SUPABASE_API_KEY_FILE: ")
    assert str(path) in fault


@pytest.mark.parametrize("name", ["SUPABASE_LISTEN_URL", "SUPABASE_API_KEY", "N8N_WEBHOOK_URL"])
def test_an_empty_secret_file_counts_as_not_set(load, tmp_path, name) -> None:
    (tmp_path / "empty").write_text("\n")
    assert getattr(load(**{f"{name}_FILE": str(tmp_path / "empty")}), name.lower()) is None


def test_an_empty_secret_file_leaves_the_dotenv_files_value(load, tmp_path) -> None:
    (tmp_path / "empty").write_text("")
    found = load(f"NEON_DATABASE_URL={LOCAL}", NEON_DATABASE_URL=None, NEON_DATABASE_URL_FILE=str(tmp_path / "empty"))
    assert found.neon_database_url == LOCAL


def test_a_required_file_that_cannot_be_read_is_one_fault_not_two(load) -> None:
    (fault,) = faults(load, NEON_DATABASE_URL=None, NEON_DATABASE_URL_FILE="/no/such/file")
    assert fault.startswith("NEON_DATABASE_URL_FILE: ")


def test_a_file_that_nobody_needs_is_not_read(load) -> None:
    assert load("NEON_DATABASE_URL_FILE=/no/such/file").neon_database_url == NEON


def test_a_credential_that_cannot_be_read_is_named(load, monkeypatch, tmp_path) -> None:
    (tmp_path / "SUPABASE_API_KEY").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (fault,) = faults(load)
    assert fault.startswith("SUPABASE_API_KEY: ")


def test_a_dotenv_file_from_windows_is_read(load) -> None:
    assert load("\ufeffWORKER_BATCH_SIZE=7\r\n").batch_size == 7


def test_without_a_dotenv_file_the_environment_is_enough(load, tmp_path) -> None:
    assert load().batch_size == 500
    (tmp_path / ".env").unlink()
    assert load_settings(tmp_path / ".env").batch_size == 500


def test_a_dotenv_file_that_is_no_text_is_named(load, tmp_path) -> None:
    load()
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"\.env: cannot be read"):
        load_settings(tmp_path / ".env")


@pytest.mark.parametrize("name", ["WORKER_BATCH_SIZE", "SUPABASE_LISTEN_URL", "N8N_WEBHOOK_URL", "WORKER_NO_SUCH"])
def test_an_empty_value_counts_as_not_set(load, name) -> None:
    assert load(f"{name}=", **{name: ""}) == load(**{name: None})


def test_an_empty_value_in_the_environment_leaves_the_dotenv_files(load) -> None:
    assert load("WORKER_BATCH_SIZE=7", WORKER_BATCH_SIZE="").batch_size == 7


def test_a_dollar_sign_in_a_password_is_kept(load) -> None:
    url = "postgresql://ana:pa$HOME${USER}@127.0.0.1/neon"
    assert load(f"NEON_DATABASE_URL='{url}'", NEON_DATABASE_URL=None).neon_database_url == url


REMOTE = [
    "postgresql://ana:hunter2@db.example/n",
    "postgresql://ana:hunter2@10.0.0.1/n",
    "postgresql://ana:hunter2@[2001:db8::1]/n",
    "postgresql://ana:hunter2@localhost,db.example/n",
    "postgresql://ana:hunter2@db.example,localhost/n",
    "postgresql://ana:hunter2@localhost/n?hostaddr=10.0.0.1",
    "postgresql://ana:hunter2@localhost.example/n",
    "postgresql://ana:hunter2@db.example,localhost/n?hostaddr=,127.0.0.1",
    "postgresql://ana:hunter2@/n?service=far",
]
HERE = [
    "postgresql://ana:hunter2@localhost/n",
    "postgresql://ana:hunter2@127.0.0.1/n",
    "postgresql://ana:hunter2@127.8.9.1/n",
    "postgresql://ana:hunter2@[::1]/n",
    "postgresql://ana:hunter2@localhost,127.0.0.1/n",
    "postgresql:///n?host=/run/postgresql",
    "postgresql:///n",
    "postgresql://ana:hunter2@db.example/n?hostaddr=127.0.0.1",
]


@pytest.mark.parametrize("url", REMOTE)
def test_tls_is_required_on_the_way_to_another_machine(load, url) -> None:
    found = load(NEON_DATABASE_URL=url, SUPABASE_DATABASE_URL=url, SUPABASE_LISTEN_URL=url)
    for conninfo in (found.neon_conninfo, found.supabase_conninfo, found.listen_conninfo):
        parts = conninfo_to_dict(conninfo)
        assert parts.pop("sslmode") == "require"
        assert parts == conninfo_to_dict(url)


@pytest.mark.parametrize("url", HERE)
def test_on_this_machine_nothing_is_added(load, url) -> None:
    assert not is_remote(url)
    assert load(NEON_DATABASE_URL=url).neon_conninfo == url


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
@pytest.mark.parametrize("name", ["NEON_DATABASE_URL", "SUPABASE_DATABASE_URL", "SUPABASE_LISTEN_URL"])
def test_another_machine_without_tls_is_refused_unless_the_operator_allows_it(load, name, mode) -> None:
    url = f"postgresql://ana:hunter2@db.example/n?sslmode={mode}"
    (fault,) = faults(load, **{name: url})
    assert fault.startswith(f"{name}: ")
    assert f"sslmode={mode}" in fault
    assert "WORKER_ALLOW_INSECURE=1" in fault
    assert getattr(load(**{name: url}, WORKER_ALLOW_INSECURE="1"), name.lower()) == url


def test_where_the_operator_allows_it_nothing_is_added(load) -> None:
    assert load(WORKER_ALLOW_INSECURE="1").neon_conninfo == NEON


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_stricter_tls_mode_is_kept(load, mode) -> None:
    url = f"{NEON}?sslmode={mode}"
    assert load(NEON_DATABASE_URL=url).neon_conninfo == url


def test_the_environments_sslmode_does_not_weaken_what_is_required(load, monkeypatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert conninfo_to_dict(load().neon_conninfo)["sslmode"] == "require"


@pytest.mark.parametrize(
    ("name", "value"), [("PGHOST", "db.example"), ("PGHOSTADDR", "10.0.0.1"), ("PGSERVICE", "far")]
)
def test_tls_is_required_also_where_libpqs_own_environment_names_the_machine(load, monkeypatch, name, value) -> None:
    monkeypatch.setenv(name, value)
    url = "postgresql://ana@localhost/n" if name == "PGHOSTADDR" else "postgresql:///n"
    assert conninfo_to_dict(load(NEON_DATABASE_URL=url).neon_conninfo)["sslmode"] == "require"


def test_an_empty_tls_mode_counts_as_not_set(load) -> None:
    assert conninfo_to_dict(load(NEON_DATABASE_URL=f"{NEON}?sslmode=").neon_conninfo)["sslmode"] == "require"


def test_settings_show_no_secret_and_do_not_change(load) -> None:
    found = load(
        SUPABASE_LISTEN_URL=SUPABASE, SUPABASE_API_KEY="key-hunter2", N8N_WEBHOOK_URL="https://n8n.example/hunter2",
        N8N_WEBHOOK_TOKEN="token-hunter2", N8N_WEBHOOK_SECRET=f"whsec_{'hunter2+' * 4}",
    )  # fmt: skip
    for shown in (repr(found), str(found), f"{found}", repr([found])):
        assert "hunter2" not in shown
        assert "batch_size=500" in shown
    with pytest.raises(ValueError, match="frozen"):
        found.batch_size = 1


@pytest.mark.parametrize(
    ("conninfo", "shown"),
    [
        (NEON, "ep-x-pooler.eu.aws.neon.example:5432/neon"),
        (SUPABASE, "eu.pooler.supabase.com:5432/postgres"),
        ("host=10.0.0.1 port=6432 user=ana password=hunter2 dbname=n", "10.0.0.1:6432/n"),
        ("postgresql://ana:hunter2@/n?hostaddr=10.0.0.1", "10.0.0.1:5432/n"),
        ("postgresql:///n", "localhost:5432/n"),
    ],
)
def test_a_log_line_shows_where_not_who(conninfo, shown) -> None:
    assert safe_address(conninfo) == shown


def test_the_dotenv_file_is_looked_for_where_the_worker_starts(load, monkeypatch, tmp_path) -> None:
    load("WORKER_BATCH_SIZE=7")
    monkeypatch.chdir(tmp_path)
    assert load_settings().batch_size == 7
