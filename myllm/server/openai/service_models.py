"""`ServiceModels`: a service's part of the models, by patterns of their names."""

from __future__ import annotations

from fnmatch import fnmatchcase

from myllm.config import ServiceSettings, Settings
from myllm.errors import InvalidRequest, ModelNotFound
from myllm.service import Service
from myllm.store.store import MAX_NAMES_SHOWN, InstalledModel

UNTIL_CONFIGURED = {name: ServiceSettings(prefix=f"/{name}/v1") for name in ("api", "chat", "code")}


class ServiceModels:
    """prefix: where the service answers, for messages. patterns: as `devstral*`, compared without case."""

    def __init__(self, prefix: str, patterns: tuple[str, ...]) -> None:
        self.prefix = prefix
        self._patterns = [pattern.casefold() for pattern in patterns]

    def offers(self, name: str) -> bool:
        """`name` as installed; a pattern may write it with or without `:latest`."""
        folded = name.casefold()
        spellings = {folded, folded.removesuffix(":latest"), f"{folded}:latest"}
        return any(fnmatchcase(spelling, pattern) for pattern in self._patterns for spelling in spellings)

    async def list(self, service: Service) -> list[InstalledModel]:
        return [model for model in await service.list_models() if self.offers(model.name)]

    async def resolve(self, service: Service, name: str) -> InstalledModel:
        """Raises ModelNotFound also for a model that is installed and not of this service."""
        installed = await service.resolve(name)
        if not self.offers(installed.name):
            offered = [model.name for model in await self.list(service)]
            names = ", ".join(offered[:MAX_NAMES_SHOWN]) or "none that is installed"
            raise ModelNotFound(f"model '{installed.name}' is not offered at {self.prefix}; its models: {names}")
        return installed

    async def default_model(self, service: Service) -> str:
        """The server's default model where it is of this service, else the service's only one."""
        default = await service.resolve(await service.default_model())
        if self.offers(default.name):
            return default.name
        offered = await self.list(service)
        if len(offered) != 1:
            raise InvalidRequest(f"'model' is required at {self.prefix}, which has {len(offered)} models", param="model")
        return offered[0].name


def services(settings: Settings) -> list[ServiceModels]:
    """Those of the settings, and `api`, `chat` and `code` with all models where these do not name them; longer prefixes first."""
    found = (UNTIL_CONFIGURED | settings.services).values()
    return sorted((ServiceModels(each.prefix, each.models) for each in found), key=lambda each: -len(each.prefix))
