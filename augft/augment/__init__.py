"""Keyed draws, ops, policies and the kernel that makes the pixels."""
