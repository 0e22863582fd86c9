"""Small graphs that show what a folder can do, each with the fewest BatchNorms possible."""

from __future__ import annotations

from fastbn.export.patterns import forwards, linear, networks, transparent
from fastbn.export.patterns.registry import PATTERNS as PATTERNS
from fastbn.export.patterns.registry import Pattern as Pattern

DRAWN = (forwards, linear, networks, transparent)
