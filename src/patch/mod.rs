//! A source patch: parse, check, apply in memory; keep `__LINE__` of untouched code.
