"""Packages, for pytest keeps a fixture of scope `package` to the end of all tests where a folder is none."""
