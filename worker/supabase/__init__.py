"""Supabase: the workspace as a queue, acknowledgements, the pull's position. Knows no rules, and not Neon."""
