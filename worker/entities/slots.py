"""The slot of a company that a person takes: the one whose role the title names. SQL over ``r``, the person."""

from __future__ import annotations

SLOTS = "marketing.company_slots"

# PostgreSQL's regular expressions, any case. \m and \M are the beginning and the end of a word. The first role that
# matches counts.
_TITLES = {
    "CEO": (
        r"\mceo\M", r"\mchief executive\M", r"\mfounder\M.*\mpresident\M", r"\mpresident\M.*\mfounder\M",
        r"\mexecutive director\M", r"\mmanaging director\M",
    ),
    "CFO": (
        r"\mcfo\M", r"\mchief\M.*\mfinancial\M", r"\mvp (of )?finance\M", r"\mvice president\M.*\mfinancial\M",
        r"\mcontroller\M", r"\mtreasurer\M", r"\mchief school business official\M",
    ),
    "HR": (
        r"\mchro\M", r"\mchief human resources officer\M", r"\mpeople officer\M",
        r"\m(vp|vice president)\M.*\mhuman resources\M",
        r"\m(hr|human resources)\M.*\m(director|manager|coordinator|specialist)\M", r"\mbenefits\M.*\mmanager\M",
    ),
}  # fmt: skip


# What a slot's type or label may say beside that.
_SLOTS = {
    "CEO": (r"\mceo\M",),
    "CFO": (r"\mcfo\M", r"\mchief\M.*\mfinance\M"),
    "HR": (r"\mhr\M", r"\mhuman resources\M"),
}


def _role(text: str, *, slot: bool = False) -> str:
    """The role that a text names."""
    whens = []
    for role, patterns in _TITLES.items():
        words = "|".join((*patterns, *_SLOTS[role]) if slot else patterns).replace(" ", r"\s+")
        whens.append(f"WHEN {text} ~* '{words}' THEN '{role}'")
    return f"CASE {' '.join(whens)} END"


def _slot_role(column: str) -> str:
    return _role(f"translate(s.{column}, '_-', '  ')", slot=True)


# OFFSET 0: each role is found once. Either column may carry a slot's role; read together, two could make a third one.
SLOT = f"""(
  SELECT c.slot
  FROM (SELECT o.*, count(*) FILTER (WHERE o.named IS NULL) OVER () AS nameless FROM (
      SELECT s.company_slot_unique_id AS slot, lower(s.slot_type) = 'default' AS by_default, s.created_at AS since,
        coalesce({_slot_role("slot_type")}, {_slot_role("slot_label")}) AS named
      FROM {SLOTS} s WHERE s.company_unique_id = r.company_unique_id OFFSET 0) o OFFSET 0) c
    CROSS JOIN (SELECT {_role("r.title")} AS wanted OFFSET 0) t
  WHERE c.named = t.wanted OR c.named IS NULL AND (c.by_default OR c.nameless = 1)
  ORDER BY (c.named = t.wanted) DESC NULLS LAST, c.by_default DESC NULLS LAST, c.since, c.slot
  LIMIT 1
)"""  # noqa: S608 - made of constants
"""The slot's key: of the role that the title names, else of type ``default``, else the only one without a role. NULL if
none fits: a person is never put into a slot of another role.
"""

TITLE_AND_SLOTS = f"""concat(
  CASE WHEN nullif(r.title, '') IS NULL THEN 'a person without a title'
    ELSE concat('the title "', left(r.title, 200), '"') END,
  '; it has ',
  left((
    SELECT string_agg(DISTINCT left(coalesce(CASE WHEN s.slot_label <> 'Primary Slot' THEN s.slot_label END,
      s.slot_type, s.slot_label, 'one without a name'), 60), ', ')
    FROM {SLOTS} s WHERE s.company_unique_id = r.company_unique_id), 500))"""  # noqa: S608 - made of constants
"""In words: the title, and the slots that there are."""
