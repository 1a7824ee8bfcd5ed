"""Objects of the user's as bytes for another process: functions without a name and classes of a script among them."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from typing import Any

from unvanish.records import UnvanishError

OURS = ("unvanish_checked_", "unvanish_sweep_")
"""Names under which files of the user's are run: another process could not import them by these."""


def pickled(what: Any, name: str) -> bytes:
    """The bytes; UnvanishError, which calls it ``name``, where something in it cannot be sent."""
    import torch

    target = io.BytesIO()
    try:
        import cloudpickle  # pyright: ignore[reportMissingImports]
    except ImportError:
        try:
            from ray import cloudpickle  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UnvanishError(
                "trials in other processes need cloudpickle, which is not installed: pip install 'unvanish[workers]'"
            ) from None
    modules = [module for name, module in sys.modules.items() if name.startswith(OURS)]
    with contextlib.ExitStack() as after:
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
            after.callback(cloudpickle.unregister_pickle_by_value, module)

        plain: Any = cloudpickle.CloudPickler  # pyright: ignore[reportPrivateImportUsage]

        class Pickler(plain):
            def reducer_override(self, obj: Any) -> Any:
                return _alone(obj) if type(obj) is torch.Tensor else super().reducer_override(obj)

        try:
            Pickler(target, protocol=pickle.HIGHEST_PROTOCOL).dump(what)
        except Exception as error:
            raise UnvanishError(
                f"{name} cannot be sent to another process: {type(error).__name__}: {error}; without workers and with"
                " on='local' it need not be"
            ) from error
    return target.getvalue()


def _alone(tensor: Any) -> Any:
    """A part of a large tensor without the rest of it, which would be sent along with every part."""
    import torch

    plain = tensor.layout == torch.strided and tensor.is_leaf
    if plain and tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
        tensor = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
