"""What a request means for the model's place in memory: the engine options that it must be loaded with, loading, unloading."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from myllm.loaded_model import LoadedModel
from myllm.manager import ModelManager
from myllm.server.callers import require_admin
from myllm.server.ollama.options import Options
from myllm.store.store import InstalledModel


def engine_wishes(request: Request, manager: ModelManager, installed: InstalledModel, options: Options) -> dict[str, Any]:
    """The engine options that the model is to be loaded with for this request; none where it is loaded so, or will be anyway.

    A context larger than the loaded one is such a wish and a smaller one is not: that bounds this request alone. Raises
    InsufficientScope where a model would be loaded otherwise than its operator has it.
    """
    wishes, loaded = dict(options.engine), loaded_model(manager, installed)
    trained = installed.metadata.context_length
    context = min(options.context_size or 0, trained or options.context_size or 0)
    if context > (loaded.plan.context_length if loaded else _usual_context(manager, installed)):
        wishes["context_size"] = context
    if not wishes or (loaded and loaded.satisfies(wishes)):
        return {}
    require_admin(request, "load models with other engine options ('options' with num_ctx, num_gpu and the like)")
    return wishes


def loaded_model(manager: ModelManager, installed: InstalledModel) -> LoadedModel | None:
    return next((model for model in manager.loaded() if model.name == installed.name), None)


def _usual_context(manager: ModelManager, installed: InstalledModel) -> int:
    """What the model is loaded with where nobody asks for anything, if memory allows."""
    options = manager.settings.engine_options(installed.name, installed.engine_options)
    return options.context_size or installed.metadata.context_length
