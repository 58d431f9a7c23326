"""How fast gated is, as ratios: ``python3 -m tests.bench``, one run, one machine, one table.

- A figure stands beside its floor: what the machine itself needs for the least that must be done. Absolute
  times say what disk and processor there are; the ratio says what gated adds.
- Floor and gate are measured in turns, in processes of their own, on the same disk.
- What is measured is ``gated run`` itself, fed through a pseudo-terminal. The clock is the monotonic one,
  which all processes share: it starts before the scan is written and stops when the pin has moved.
"""
