"""What the people of the state machine may write, and where."""

from __future__ import annotations

from typing import Any

from expected import entity_of
from hypothesis import strategies as st
from records import company, person

COMPANIES, PEOPLE = 10, 4
NUMBERS = st.integers(1, COMPANIES + 2)
WEBSITES = st.sampled_from(["good.example", "https://better.example/x", "n/a", " ", "test.com", "two words"])
KEYS = st.one_of(NUMBERS.map(company), NUMBERS.map(company), st.integers(1, PEOPLE + 1).map(person))
EMAILS = st.sampled_from(["robin@alder.example", "n/a"])
Edit = tuple[str, dict[str, Any]]
STATUSES = st.sampled_from(["pending", "in_progress", "complete", "complete"])
PLACES = {
    "phone": st.sampled_from(["(304) 555-0101", "+13045550102"]), "city": st.sampled_from(["Elkins", "Ripley"]),
    "state": st.sampled_from(["WV", "OH"]),
}  # fmt: skip
CELLS = {
    "company": st.fixed_dictionaries({}, optional={
        **PLACES, "company_name": st.sampled_from(["Alder Mills", "Beech Works"]), "website": WEBSITES,
        "industry": st.sampled_from(["Timber", "Retail"]), "employee_count": st.sampled_from([None, 5, -5]),
        "address": st.sampled_from(["1 Mill Road", "2 Hill Road"]), "zip": st.sampled_from(["26501", "26241"]),
        "domain": st.sampled_from(["good.example", "old.example"]),
    }),
    "people": st.fixed_dictionaries({}, optional={
        **PLACES, "email": st.sampled_from(["robin@alder.example", "kim@alder.example", "n/a", "robin at alder"]),
        "title": st.sampled_from(["Clerk", "Buyer"]), "company_name": st.sampled_from(["Alder Mills", "Beech Works"]),
        "company_unique_id": st.integers(1, 3).map(company),
        "linkedin_url": st.sampled_from(["https://www.linkedin.com/in/robin", "https://www.linkedin.com/in/kim"]),
        "names": st.sampled_from([("Robin", "Alder"), ("Kim", "Beech")]),
    }),
}  # fmt: skip


def with_names(values: dict[str, Any]) -> dict[str, Any]:
    if names := values.pop("names", None):
        values |= {"full_name": " ".join(names), "first_name": names[0], "last_name": names[1]}
    return values


EDITS = KEYS.flatmap(lambda key: st.tuples(st.just(key), CELLS[entity_of(key).name].map(with_names)))
TIMES = st.tuples(
    st.integers(0, 4), st.integers(1, 3),
    st.sampled_from(["edit", "take back", "correct", "insert", "delete", "undo", "nothing"]), EDITS,
)  # fmt: skip
Time = tuple[int, int, str, Edit]
"""How many lines a worker logs before it is killed, the part of the rows that is flipped, and what else is done."""
