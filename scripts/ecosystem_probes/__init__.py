"""Probes of docs/ecosystem.md: what tools do with modules of Cupola. Run scripts/ecosystem.py."""
