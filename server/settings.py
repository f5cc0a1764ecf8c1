"""Where files live and which defaults hold, from the environment (`LATENTGRAPH_HOME`, `LATENTGRAPH_PORT`, …)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ["LOOPBACK", "ClientSettings", "ServerSettings", "Settings"]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
Names = Annotated[tuple[str, ...], NoDecode]  # in the environment: a,b,c


class Settings(BaseSettings):
    """Settings of one process; command-line options override them."""

    model_config = SettingsConfigDict(env_prefix="LATENTGRAPH_")

    home: Path = Field(default_factory=Path.cwd, description="holds models/, input/, output/, temp/")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    cache_dir: Path | None = Field(None, description="keeps results between processes; none: memory only")


class ClientSettings(Settings):
    """Which server the command line talks to."""

    server: str = Field("http://127.0.0.1:8188", description="the address of a running server")
    token: SecretStr | None = Field(None, description="what that server asks for")

    @property
    def secret(self) -> str | None:
        return None if self.token is None else self.token.get_secret_value()


class ServerSettings(Settings):
    """What `latentgraph serve` goes by: where it listens, whom it lets in, what it works with and how much it takes."""

    host: str = Field("127.0.0.1", description="the address to listen on; anything but the loopback needs a token")
    port: int = Field(8188, ge=0, le=65535, description="0: any free one")
    base: str = Field("/", description="the path that everything lies under, such as /studio/")
    token: SecretStr | None = Field(None, description="what a client must show: as a bearer header, or typed into the login page")
    hosts: Names = Field((), description="further Host names that requests may carry, such as that of a proxy")
    origins: Names = Field((), description="further web origins that may change things, such as https://studio.example")

    devices: Names = Field((), description="one worker process for each; none given: `device` alone")
    requeue: bool = Field(False, description="run again what a crash of the server interrupted, instead of marking it")
    grace: float = Field(10.0, ge=0, description="seconds that a running node is given to finish when the server stops")

    queue_limit: int = Field(1000, ge=1, description="runs that may wait; one more is answered 429")
    history_limit: int = Field(10_000, ge=1, description="finished runs that are remembered")
    client_limit: int = Field(1000, ge=1, description="WebSocket clients at a time")
    body_limit: int = Field(100 << 20, ge=1, description="bytes of a request body, as of an upload")
    pixel_limit: int = Field(100_000_000, ge=1, description="pixels of a picture that is uploaded or re-encoded")
    message_limit: int = Field(64 << 10, ge=1, description="bytes of a WebSocket message that a client sends")
    outbox_limit: int = Field(1 << 20, ge=1, description="bytes that wait for one slow WebSocket client")
    preview_rate: float = Field(8.0, gt=0, description="previews a second for each client")
    preview_size: int = Field(512, ge=16, description="pixels along the longer side of a preview")

    log_level: str = Field("info", description="debug, info, warning or error")
    log_json: bool = Field(False, description="log one JSON object a line")

    @field_validator("hosts", "origins", "devices", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("base")
    @classmethod
    def _slashes(cls, value: str) -> str:
        return f"/{value.strip('/')}/" if value.strip("/") else "/"

    @field_validator("token")
    @classmethod
    def _some(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("the token is empty")
        return value

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.lower() not in ("debug", "info", "warning", "error"):
            raise ValueError("must be debug, info, warning or error")
        return value.lower()

    @property
    def works_on(self) -> tuple[str, ...]:
        """The devices, one worker each."""
        return self.devices or (self.device,)

    @property
    def journal(self) -> Path:
        """The SQLite file of queue, history and events; beside the user's files, never among them."""
        return self.home / "latentgraph.sqlite"

    @property
    def user(self) -> Path:
        """The folder of workflows and settings that the editor saves."""
        return self.home / "user" / "default"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK
