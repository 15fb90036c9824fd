"""Carries repaired records from a Supabase workspace to Neon, validates and promotes them."""

__version__ = "0.2.0"
