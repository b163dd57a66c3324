"""What ``cascade-serve`` does beside starting a server: watch it, revive it, guard it.

Not part of the core that is copied beside each ``model.py``.
"""
