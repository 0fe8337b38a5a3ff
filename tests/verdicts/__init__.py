"""Models whose verdicts are known: what inspect, plan and assert_equivariant say of them is held against an oracle.

An entry (`entry.py`) is a model, inputs, and the group's action on inputs and outputs, written by hand (`actions.py`);
its label is what `oracle.py` measures. To add one, put it into the `entries_*.py` of its domain: `test_oracle.py` says
whether the label is true, `python -m verdicts --print DOMAIN` what relaxify says of it (`scoring.py`, `table.py`).
"""
