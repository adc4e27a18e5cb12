"""The import of transformers in a process of its own, a step's or a worker's, at the least cost.

transformers imports for every network what it needs for some: where scipy is installed, scipy's optimizers, which match boxes
in pictures; where peft is, all of its adapters. It asks once whether a package is there and remembers the answer, and it works
without each of them. So they are hidden while it is imported: whoever imports them later gets them.

    hidden    scipy, sklearn, peft      0.5 s of some 5 s of CPU
    no garbage collection               0.6 s: imports make millions of objects, and hardly one of them is garbage
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

HIDDEN = ("scipy", "sklearn", "peft")


def import_networks() -> None:
    """Import torch and what all networks of transformers share; for the first lines of a process of ours only.

    What is imported is left out of all later garbage collections, which then take less time too.
    """
    gc.disable()
    try:
        import torch  # noqa: F401  # it may have what is hidden from transformers

        with hidden(HIDDEN):
            import transformers.modeling_utils
            import transformers.optimization  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Have packages that nothing has imported yet look as if they weren't installed."""
    names = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None, by Python's rules, means: there is no such module
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
