"""Small graphs that show what a folder can do, each with the fewest BatchNorms possible."""

from __future__ import annotations

from fastbn.bench.patterns import forwards, linear, networks, transparent
from fastbn.bench.patterns.registry import PATTERNS as PATTERNS
from fastbn.bench.patterns.registry import Pattern as Pattern

DRAWN = (forwards, linear, networks, transparent)
