"""The entities: their tables, columns, rules, and what they wait for."""
