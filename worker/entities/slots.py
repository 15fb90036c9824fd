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


def _role(text: str, *, slot: bool = False) -> str:
    """The role that a text names; a slot also by the role's own name."""
    whens = []
    for role, patterns in _TITLES.items():
        words = "|".join((*patterns, rf"\m{role}\M") if slot else patterns)
        whens.append(f"WHEN {text} ~* '{words}' THEN '{role}'")
    return f"CASE {' '.join(whens)} END"


# Either column may carry a slot's role; read together, two of them could make a third one.
_OF_COMPANY = f"""
  SELECT s.*, coalesce({_role("s.slot_type", slot=True)}, {_role("s.slot_label", slot=True)}) AS role
  FROM {SLOTS} s WHERE s.company_unique_id = r.company_unique_id
"""  # noqa: S608 - made of constants

SLOT = f"""(
  SELECT c.company_slot_unique_id
  FROM (SELECT o.*, count(*) FILTER (WHERE o.role IS NULL) OVER () AS roleless FROM ({_OF_COMPANY}) o) c
    CROSS JOIN (SELECT {_role("r.title")} AS role) title
  WHERE c.role = title.role OR c.role IS NULL AND (lower(c.slot_type) = 'default' OR c.roleless = 1)
  ORDER BY (c.role = title.role) DESC NULLS LAST, (lower(c.slot_type) = 'default') DESC NULLS LAST, c.created_at,
    c.company_slot_unique_id
  LIMIT 1
)"""  # noqa: S608 - made of constants
"""The slot's key: of the role that the title names, else of type ``default``, else the only one without a role. NULL if
none fits: a person is never put into a slot of another role.
"""

TITLE_AND_SLOTS = f"""concat(
  CASE WHEN nullif(r.title, '') IS NULL THEN 'a person without a title'
    ELSE concat('the title "', left(r.title, 200), '"') END,
  '; it has ',
  (SELECT string_agg(DISTINCT coalesce(CASE WHEN s.slot_label <> 'Primary Slot' THEN s.slot_label END, s.slot_type,
     s.slot_label, 'one without a name'), ', ') FROM {SLOTS} s WHERE s.company_unique_id = r.company_unique_id))"""  # noqa: S608 - made of constants
"""In words: the title, and the slots that there are."""
