"""How values are written as JSON, and read."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from worker.domain.model import Action
from worker.postgres import adapt


def nested(deep: int) -> Any:
    value: Any = "bottom"
    for _ in range(deep):
        value = [value]
    return value


@pytest.mark.parametrize("value", [{"a": None, "b": [1, 2.5, True], "ö": '\u2028 \\ "'}, 2**63, 10**40, -(2**70), {"a": [10**30]},
                                   nested(300), [], "\x00"], ids=repr)  # fmt: skip
def test_what_was_written_is_read_as_it_was(value: Any) -> None:
    assert adapt._loads(adapt._dumps(value)) == value


@pytest.mark.parametrize(
    "beside", [None, 10**30, nested(300)], ids=["alone", "beside what is large", "beside what is deep"]
)
def test_moments_and_words_of_ours_are_written_as_text(beside: Any) -> None:
    at = datetime.fromisoformat("2025-11-07T16:32:09.000007")
    written = adapt._dumps(
        {"at": at, "first": datetime.min, "action": Action.PROMOTE, "fields": ("a", "b"), "x": beside}
    )
    read = json.loads(written)
    assert datetime.fromisoformat(read["at"]) == at
    assert datetime.fromisoformat(read["first"]) == datetime.min
    assert (read["action"], read["fields"]) == ("promote", ["a", "b"])


def test_what_json_has_no_form_for_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError):
        adapt._dumps({"a": object()})
