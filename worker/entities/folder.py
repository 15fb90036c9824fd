"""Where the entity files are. Loads no file: the help of a command needs no more than their names."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent
"""The entity files that come with the worker."""
SETTING = "WORKER_ENTITIES"


class NoEntityFiles(Exception):
    """A folder has no entity files. The text is one line."""


def entity_folder(env_file: Path = Path(".env")) -> Path:
    """The folder that ``WORKER_ENTITIES`` names, in the environment or in ``.env``; else that of the worker's files."""
    value = os.environ.get(SETTING)
    if not value and env_file.is_file():
        from dotenv import dotenv_values  # noqa: PLC0415 - most commands read all settings anyway

        try:
            value = dotenv_values(env_file, interpolate=False).get(SETTING)
        except (OSError, UnicodeDecodeError):  # told where all settings are read
            value = None
    return Path(value) if value else FOLDER


def entity_files(folder: Path) -> list[Path]:
    """The entity files of a folder, by name.

    Raises:
        NoEntityFiles: there is no such folder, or no such file in it.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
    except OSError as error:
        raise NoEntityFiles(
            f"{SETTING}: {folder} cannot be read ({error.strerror}); name a folder of entity files"
        ) from None
    if not paths:
        raise NoEntityFiles(
            f"{SETTING}: {folder} has no entity file; begin with copies of those in {FOLDER}, or with `entities new`"
        )
    return paths
