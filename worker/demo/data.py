"""Invented records for the demo: no real company or person; every domain is reserved (``.example``)."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

Row = dict[str, Any]

COMPANIES, PEOPLE, MISTAKES = 119, 5, 34
INTAKE = "INTAKE-20251107-163209-b26be042"
EARLIER = "INTAKE-20251021-090512-77c0ffee"
INTAKE_AT, EARLIER_AT = datetime.fromisoformat("2025-11-07T16:32:09"), datetime.fromisoformat("2025-10-21T09:05:12")
_TREES = (
    "Alder", "Aspen", "Beech", "Birch", "Cedar", "Elder", "Elm", "Fir", "Hazel", "Holly", "Juniper", "Larch",
    "Linden", "Maple", "Oak", "Pine", "Rowan", "Spruce", "Sumac", "Willow",
)  # fmt: skip
_TRADES = (
    ("Dental Care", "Healthcare"), ("Timber", "Forestry"), ("Bakery", "Food"), ("Roofing", "Construction"),
    ("Books", "Retail"), ("Freight", "Logistics"), ("Optics", "Manufacturing"), ("Gardens", "Agriculture"),
)  # fmt: skip
_PLACES = (("Fernhollow", "WV", "26599"), ("Millbrook Falls", "PA", "15999"), ("Stonecreek", "OH", "43999"))
_NAMES = ("Robin Elmwood", "Sam Hazelton", "Alex Rowanberry", "Kim Larchfield", "Toni Birchgrove")


def company_key(number: int) -> str:
    """The Barton ID of the demo company ``number``, from 1."""
    return f"04.04.01.01.{number:05}.{number % 1000:03}"


def person_key(number: int) -> str:
    """The Barton ID of the demo person ``number``, from 1."""
    return f"04.04.02.01.{number:05}.{number:03}"


def _company(number: int) -> tuple[str, str, str]:
    """Name, industry and domain."""
    tree = _TREES[(number - 1) % len(_TREES)]
    trade, industry = _TRADES[(number - 1) // len(_TREES) % len(_TRADES)]
    return f"{tree} {trade}", industry, f"{tree}-{trade.replace(' ', '-')}.example".lower()


def companies() -> list[Row]:
    """119 rows of ``marketing.company_invalid``; most lack a website, five came earlier with other errors."""
    rows = []
    rng = random.Random(119)  # noqa: S311 - the same records every time
    for number in range(1, COMPANIES + 1):
        name, industry, _ = _company(number)
        city, state, code = _PLACES[number % len(_PLACES)]
        row: Row = {
            "company_unique_id": company_key(number),
            "company_name": name,
            "domain": None,
            "industry": industry if rng.random() < 0.7 else None,
            "employee_count": rng.randrange(2, 400) if rng.random() < 0.5 else None,
            "website": None,
            "phone": f"(304) 555-01{rng.randrange(100):02}" if rng.random() < 0.6 else None,
            "address": f"{rng.randrange(1, 900)} {name.split()[0]} Street",
            "city": city,
            "state": state,
            "zip": code,
            "reason_code": "EMPTY_WEBSITE",
            "validation_errors": {"website": "empty or blank"},
            "batch_id": INTAKE,
            "created_at": INTAKE_AT,
        }
        if number > COMPANIES - 5:
            row |= {
                "company_name": "Example",
                "website": "test.com",
                "reason_code": "PLACEHOLDER_COMPANY_NAME",
                "validation_errors": ["Company name is a placeholder", "Website is a placeholder"],
                "batch_id": EARLIER,
                "created_at": EARLIER_AT,
            }
        rows.append(row)
    return rows


def _employer(person: int) -> int:
    """The number of a person's company. The last two people's companies fail first, so they wait."""
    mistaken = sorted(_mistaken())
    return (
        mistaken[person - 4]
        if person >= 4
        else next(number for number in range(person * 20, COMPANIES) if number not in mistaken)
    )


def people() -> list[Row]:
    """Five rows of ``marketing.people_invalid``."""
    return [
        {
            "unique_id": person_key(number),
            "full_name": name,
            "email": None if number % 2 else "n/a",
            "phone": f"304-555-01{number:02}",
            "title": "Owner" if number % 2 else None,
            "company_name": _company(_employer(number))[0],
            "company_unique_id": company_key(_employer(number)),
            "city": _PLACES[0][0],
            "state": _PLACES[0][1],
            "reason_code": "EMPTY_EMAIL" if number % 2 else "INVALID_EMAIL",
            "validation_errors": {"email": "is empty" if number % 2 else "is no e-mail address"},
            "batch_id": INTAKE,
            "created_at": INTAKE_AT,
        }
        for number, name in enumerate(_NAMES, start=1)
    ]


def slots() -> list[Row]:
    """Rows of ``marketing.company_slots``: one for each company that a person belongs to."""
    return [
        {
            "company_slot_unique_id": f"04.04.05.01.{number:05}.{number:03}",
            "company_unique_id": company_key(_employer(number)),
        }
        for number in range(1, PEOPLE + 1)
    ]


def repairs() -> dict[str, Row]:
    """The right repair of every record, by key."""
    right: dict[str, Row] = {}
    for number in range(1, COMPANIES + 1):
        name, _, domain = _company(number)
        # People type addresses in many ways.
        typed = (f"https://www.{domain}", domain, f" HTTP://{domain.upper()}/", f"www.{domain}")[number % 4]
        right[company_key(number)] = {"company_name": name, "website": typed, "employee_count": number + 3}
    for number, name in enumerate(_NAMES, start=1):
        domain = _company(_employer(number))[2]
        right[person_key(number)] = {"email": f"{name.split()[0].lower()}@{domain}"}
    return right


def _mistaken() -> set[int]:
    return set(random.Random(34).sample(range(1, COMPANIES + 1), MISTAKES))  # noqa: S311 - as above


def mistakes() -> dict[str, Row]:
    """What a careless enricher would enter instead, for 34 companies, by key."""
    slips = (
        {"website": " "},
        {"website": "n/a"},
        {"website": "test.com"},
        {"website": "could not find one"},
        {"website": "info@{domain}"},
        {"website": "https://{domain}", "company_name": "N/A"},
        {"website": "https://{domain}", "employee_count": -1},
    )
    wrong = {}
    for number in sorted(_mistaken()):
        domain = _company(number)[2]
        slip = slips[number % len(slips)]
        wrong[company_key(number)] = {
            name: value.format(domain=domain) if isinstance(value, str) else value for name, value in slip.items()
        }
    return wrong
