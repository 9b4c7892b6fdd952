"""The implementations of the scan, one file each: a module of this folder ends with what it registers.

A backend of your own is such a file too: it calls `mtmamba.scan.register` when it is imported.
"""
