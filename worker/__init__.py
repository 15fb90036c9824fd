"""Carries repaired records from a Supabase workspace to Neon, validates and promotes them."""

__version__ = "1.0.0"
