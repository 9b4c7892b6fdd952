"""Configurations: composed as the scripts do, and checked before anything is read or imported."""
