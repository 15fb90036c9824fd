"""Neon: the invalid and the master tables, the settlement, the ledger. Knows no rules, and not Supabase."""
