"""Benchmarks: ``fastbn bench kernels``, ``conv``, ``train``, ``model`` and others.

Everything is measured side by side, in one run and in turns, so that what disturbs the machine
disturbs all sides: against the machine's own limits (a copy, a triad, multiply-adds) and against
PyTorch, TensorFlow and JAX where they are installed. docs/performance.md says how.
"""
