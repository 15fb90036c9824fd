"""Supabase: the workspace as a queue, what its rows are told, how far the pull is. Knows no rules, and not Neon."""
