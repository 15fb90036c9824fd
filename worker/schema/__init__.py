"""The table definitions that the worker requires in both databases, and statements that fix differences."""
