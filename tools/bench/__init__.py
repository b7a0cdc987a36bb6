# SPDX-License-Identifier: GPL-2.0-or-later
"""What mbecguard costs, as figures with goals: `python -m tools.bench`, explained in HACKING.md.

A group is a module with `figures(product) -> Iterator[Figure]`, and one line in GROUPS of `__main__.py`. A figure is a
number that another load of the machine does not change: instructions, a ratio of two things that took turns, memory.
Its name stays as it is: by that a saved run is compared.
"""
