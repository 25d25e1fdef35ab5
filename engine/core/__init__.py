"""Frozen records and pure arithmetic that everything else speaks in; standard library only, no torch."""
