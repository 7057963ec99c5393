"""Search, confirm and record: a hyperparameter study of CNNs on Fashion-MNIST."""

import os

# Ray, matplotlib and others ask for a home when they are imported; in a container this user may have none.
if os.path.expanduser("~") == "~":
    os.environ["HOME"] = "/nonexistent"
# Ray reads this when it is first imported. Without it, it opens its ports to the network on Linux, to the loopback
# interface elsewhere; a study on one machine has nobody to serve.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Whoever reaches Ray can run code as this user: nobody does without the token, whatever Ray's default is.
os.environ["RAY_AUTH_MODE"] = "token"
# Ray's own processes end where a warning is an error, or where docstrings are left out. This process has read both.
for name in ("PYTHONWARNINGS", "PYTHONOPTIMIZE"):
    os.environ.pop(name, None)
# glibc hands freed tensors back to the kernel and asks for them again a step later: not in every process, but in Ray's
# workers, which train one trial after another, often (results/benchmarks/allocator.md). Read when a process starts.
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(4 << 30))
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))  # the largest that glibc takes
# OpenMP reads these when torch is imported, and binds the process to one core: the study would see one core, and all
# trials share it.
for name in ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"):
    os.environ.pop(name, None)
