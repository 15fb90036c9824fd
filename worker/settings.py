"""Settings: from the environment, from files it names, from systemd credentials, or from ``.env``.

Read once, at the start of a command; every fault is reported, not only the first.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker.domain.signature import SecretError, signing_keys
from worker.postgres.address import AddressError, check_address, is_local, is_remote, listen_fault

SECRETS = (
    "NEON_DATABASE_URL", "SUPABASE_DATABASE_URL", "SUPABASE_LISTEN_URL", "SUPABASE_API_KEY", "N8N_WEBHOOK_URL",
    "N8N_WEBHOOK_TOKEN", "N8N_WEBHOOK_SECRET",
)  # fmt: skip
SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)  # fmt: skip
"""Where systems keep their trusted root certificates: Debian, Fedora, openSUSE, Alpine and macOS."""
OTHER_NAMES = {"NEON_DATABASE_URL": "DATABASE_URL", "SUPABASE_DATABASE_URL": "SUPABASE_DB_URL"}
"""What other scripts call a setting: not taken for it, as they mean other databases elsewhere."""
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class SettingsError(Exception):
    """Settings that are missing or wrong; one line for each, by name, with the fix, without secrets."""

    def __init__(self, faults: list[str]) -> None:
        """Create the error from its lines."""
        super().__init__("\n".join(faults))
        self.faults = faults


def _fault(message: str) -> PydanticCustomError:
    return PydanticCustomError("setting", "{message}", {"message": message})


def _seconds(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)\s*", value.lower())
        if not match:
            raise _fault(f"{value[:40]!r} is no time; write 90, 90s, 15m, 1h or 1d")
        return float(match[1]) * _UNITS[match[2]]
    return value


def _whole_days(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,5})\s*d?\s*", value.lower())
        if not match or not int(match[1]):
            raise _fault(f"{value[:40]!r} is no number of days; write 90 or 90d, or leave it out to keep all")
        return int(match[1])
    return value


def _passes(check: Callable[[str], object]) -> AfterValidator:
    def checked(value: str) -> str:
        try:
            check(value)
        except (AddressError, SecretError) as error:
            raise _fault(str(error)) from None
        return value

    return AfterValidator(checked)


def _health_address(value: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*):(\d{1,5})", value)
    if not match or int(match[2]) > 65535:
        raise _fault(f"{value[:60]!r} is no address; write HOST:PORT, such as 127.0.0.1:8080")
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0.05, le=31 * 86400)]
Days = Annotated[int, BeforeValidator(_whole_days), Field(ge=1, le=99_999)]
PostgresUrl = Annotated[str, _passes(check_address)]
SigningSecrets = Annotated[str, _passes(signing_keys)]


class Settings(BaseSettings):
    """All settings. Frozen; its ``repr`` shows no secret. Times are in seconds, retention in days."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    allow_insecure: bool = Field(False, validation_alias="WORKER_ALLOW_INSECURE")
    neon_database_url: PostgresUrl = Field(validation_alias="NEON_DATABASE_URL", repr=False)
    supabase_database_url: PostgresUrl = Field(validation_alias="SUPABASE_DATABASE_URL", repr=False)
    supabase_listen_url: PostgresUrl | None = Field(None, validation_alias="SUPABASE_LISTEN_URL", repr=False)
    supabase_url: str | None = Field(None, validation_alias="SUPABASE_URL")
    supabase_api_key: str | None = Field(None, validation_alias="SUPABASE_API_KEY", repr=False)
    n8n_webhook_url: str | None = Field(None, validation_alias="N8N_WEBHOOK_URL", repr=False)
    n8n_webhook_token: str | None = Field(None, validation_alias="N8N_WEBHOOK_TOKEN", repr=False)
    n8n_webhook_secret: SigningSecrets | None = Field(None, validation_alias="N8N_WEBHOOK_SECRET", repr=False)
    entities: Path | None = Field(None, validation_alias="WORKER_ENTITIES")
    pull_interval: Seconds = Field(3600.0, validation_alias="WORKER_PULL_INTERVAL")
    sweep_interval: Seconds = Field(5.0, validation_alias="WORKER_SWEEP_INTERVAL")
    ledger_retention: Days | None = Field(None, validation_alias="WORKER_LEDGER_RETENTION")
    workspace_retention: Days | None = Field(None, validation_alias="WORKER_WORKSPACE_RETENTION")
    batch_size: int = Field(500, ge=1, le=10_000, validation_alias="WORKER_BATCH_SIZE")
    health_address: Annotated[str, AfterValidator(_health_address)] = Field(
        "127.0.0.1:8080", validation_alias="WORKER_HEALTH_ADDRESS"
    )
    log_format: Literal["json", "console"] = Field(
        default_factory=lambda: "console" if sys.stderr.isatty() else "json", validation_alias="WORKER_LOG_FORMAT"
    )

    @field_validator("neon_database_url", "supabase_database_url", "supabase_listen_url")
    @classmethod
    def _require_tls(cls, value: str | None, info: ValidationInfo) -> str | None:
        """A connection to another machine must use TLS, unless the operator allows otherwise."""
        if value is None or info.data.get("allow_insecure"):
            return value
        mode = conninfo_to_dict(value).get("sslmode")
        if is_remote(value) and mode in ("disable", "allow", "prefer"):
            raise _fault(
                f"goes to another machine with sslmode={mode}, which does not enforce TLS; "
                "use sslmode=require, or set WORKER_ALLOW_INSECURE=1"
            )
        return value

    @field_validator("supabase_url", "n8n_webhook_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # the message would quote user and password
            good = False
        if not good:
            raise _fault("is no web address; it begins with https://")
        return value

    @field_validator("n8n_webhook_token")
    @classmethod
    def _token(cls, value: str | None, info: ValidationInfo) -> str | None:
        url = info.data.get("n8n_webhook_url")
        if value is None or url is None:
            return value
        if not value.isascii() or any(c.isspace() or not c.isprintable() for c in value):
            raise _fault("holds blanks or other characters that no header may carry; copy the token alone")
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_local(parts.hostname or "") and not info.data.get("allow_insecure"):
            raise _fault(
                "would go to another machine without TLS; use https in N8N_WEBHOOK_URL, or set WORKER_ALLOW_INSECURE=1"
            )
        return value

    @property
    def neon_conninfo(self) -> str:
        """The connection string of Neon, with TLS required if it leads to another machine."""
        return self._conninfo(self.neon_database_url)

    @property
    def supabase_conninfo(self) -> str:
        """The connection string of Supabase, likewise."""
        return self._conninfo(self.supabase_database_url)

    @property
    def listen_conninfo(self) -> str:
        """The connection string for LISTEN, likewise."""
        return self._conninfo(self.supabase_listen_url or self.supabase_database_url)

    @property
    def health_host(self) -> str:
        """The host part of the health address, without brackets; an empty one means every IPv4 interface."""
        return self.health_address.rpartition(":")[0].strip("[]") or "0.0.0.0"  # noqa: S104 - the operator's choice

    @property
    def health_port(self) -> int:
        """The port of the health address; 0 means any free port."""
        return int(self.health_address.rpartition(":")[2])

    def _conninfo(self, url: str) -> str:
        if self.allow_insecure or not is_remote(url) or conninfo_to_dict(url).get("sslmode"):
            return url
        return make_conninfo(url, sslmode="require")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only what :func:`load_settings` collected."""
        return (init_settings,)


def load_settings(env_file: Path = Path(".env")) -> Settings:
    """Collect the settings: environment, then ``NAME_FILE``, then systemd credentials, then ``.env``.

    Raises:
        SettingsError: some are missing or wrong.
    """
    faults: list[str] = []
    values = _collect(env_file, faults)
    known = [str(field.validation_alias) for field in Settings.model_fields.values()]
    for name in values:
        if name.startswith("WORKER_") and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            faults.append(f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    settings = None
    try:
        settings = Settings(**values)
    except ValidationError as error:
        unread = {fault.partition(":")[0].removesuffix("_FILE") for fault in faults}
        # A setting that could not be read is not also reported as missing.
        faults += [
            _in_words(one, values)
            for one in error.errors(include_url=False, include_input=False)
            if not (one["type"] == "missing" and one["loc"][0] in unread)
        ]
    faults += listen_fault(values.get("SUPABASE_LISTEN_URL") or values.get("SUPABASE_DATABASE_URL") or "")
    if faults or settings is None:
        raise SettingsError(faults)
    _find_roots()
    return settings


def _find_roots() -> None:
    """Point OpenSSL to this system's root certificates, for ``sslrootcert=system``: psycopg's wheel contains an OpenSSL
    that looks for them in a path that no system has.
    """
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        for roots in SYSTEM_ROOTS:
            if Path(roots).is_file():
                os.environ["SSL_CERT_FILE"] = roots
                return


def _collect(env_file: Path, faults: list[str]) -> dict[str, Any]:
    from_file: Mapping[str, str | None] = {}
    try:
        if env_file.is_file():
            from_file = dotenv_values(env_file, interpolate=False)
    except (OSError, UnicodeDecodeError):
        faults.append(f"{env_file}: cannot be read; is it text, and yours to read?")
    values = {name: value for name, value in from_file.items() if value}
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    environment = {name: value for name, value in os.environ.items() if value}
    for name in SECRETS:
        named, stored = environment.get(f"{name}_FILE"), values.get(f"{name}_FILE")
        # The first source with a value wins, and later ones are not read.
        if value := (
            environment.get(name)
            or (named and _content(f"{name}_FILE", Path(named), faults))
            or (folder and _content(name, Path(folder) / name, faults, optional=True))
            or values.get(name)
            or (stored and _content(f"{name}_FILE", Path(stored), faults))
        ):
            values[name] = value
    values |= environment
    known = {*(str(field.validation_alias) for field in Settings.model_fields.values()), *OTHER_NAMES.values()}
    return {name: value for name, value in values.items() if name in known or name.startswith("WORKER_")}


def _content(name: str, path: Path, faults: list[str], *, optional: bool = False) -> str:
    """The content of a file, stripped; if it cannot be read, an empty string and a fault."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if not (optional and isinstance(error, (FileNotFoundError, NotADirectoryError))):
            faults.append(f"{name}: {path} cannot be read; check the path and its permissions")
        return ""


def _in_words(error: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    name = str(error["loc"][0]) if error["loc"] else "settings"
    match error["type"]:
        case "missing":
            if (other := OTHER_NAMES.get(name)) in values:
                return f"{name}: is required; {other} is set: give it the name {name}"
            return f"{name}: is required; set it in the environment, in .env or as a credential"
        case "bool_parsing":
            return f"{name}: is neither 1 nor 0"
        case "literal_error":
            return f"{name}: is none of {error['ctx']['expected']}"
        case "setting":
            return f"{name}: {error['msg']}"
        case _:
            return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}"
