"""The only reader of environment variables, and the folders that follow from them.

Only where a process starts is it called: by commands, the server, `Workspace()` without arguments, a component's command line.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    home: the folder that holds everything (`MAFUNZO_HOME`, default `~/.mafunzo`).
    cache: downloads that may be fetched again and are shared by all homes (`MAFUNZO_CACHE`, default `$XDG_CACHE_HOME/mafunzo`).
    database_url: an SQLAlchemy URL (`MAFUNZO_DATABASE_URL`), or None for SQLite in the home.
    port: the HTTP port of the server (`MAFUNZO_PORT`, default 8080).
    https_port: its https port (`MAFUNZO_HTTPS_PORT`, or `MAFUNZO_AZURE_PORT`; default 8443; 0 where `MAFUNZO_PORT` is 0).
    listen: the address of both ports (`MAFUNZO_LISTEN`, default 127.0.0.1: nobody but this machine).
    host_names: what else clients may call the server in `Host`, as behind a proxy (`MAFUNZO_HOST_NAMES`, by commas).
    cors_origins: whose web pages may ask the endpoints (`MAFUNZO_CORS_ORIGINS`, by commas; default: nobody's).
    offline: never ask a network (`MAFUNZO_OFFLINE`, `HF_HUB_OFFLINE`).
    input_hosts: those that a job's files are fetched from though they are private or without https (`MAFUNZO_INPUT_HOSTS`).
    authorities: those that the user trusts, a file or folder (`REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`); None: the public ones.
    job_webhook: the address that is told when a job has ended (`MAFUNZO_JOB_WEBHOOK`); empty: none.
    limits: the sizes and rates that the server allows its clients, by variable (`MAFUNZO_LIMIT_...`).
    price_per_hour: what an hour of this machine costs, in any currency (`MAFUNZO_PRICE_PER_HOUR`); None: no cost is told.
    step_folder: where a step writes `metrics.jsonl` and `error.json` (`MAFUNZO_STEP_FOLDER`), or None outside of a job.
    memory_budget_mb: what each process of a step may take (`MAFUNZO_MEMORY_BUDGET_MB`), as the system has ended an earlier
    attempt for want of memory; 0: as much as the step plans by itself.
    """

    home: Path
    cache: Path
    database_url: str | None
    port: int
    https_port: int
    listen: str
    host_names: tuple[str, ...]
    cors_origins: tuple[str, ...]
    offline: bool
    input_hosts: tuple[str, ...]
    authorities: Path | None
    job_webhook: str
    limits: Mapping[str, str]
    price_per_hour: float | None
    step_folder: Path | None
    memory_budget_mb: float


def load(environ: dict[str, str] | None = None) -> Settings:
    """Read the settings from `environ`, by default the process's own environment."""
    env = dict(os.environ) if environ is None else environ
    user = Path(env.get("HOME", "~")).expanduser()
    xdg_cache = Path(env.get("XDG_CACHE_HOME") or user / ".cache")
    https = "MAFUNZO_HTTPS_PORT" if env.get("MAFUNZO_HTTPS_PORT") else "MAFUNZO_AZURE_PORT"
    return Settings(
        home=Path(env.get("MAFUNZO_HOME") or user / ".mafunzo").expanduser().absolute(),
        cache=Path(env.get("MAFUNZO_CACHE") or xdg_cache / "mafunzo").expanduser().absolute(),
        database_url=env.get("MAFUNZO_DATABASE_URL") or None,
        port=_port("MAFUNZO_PORT", env.get("MAFUNZO_PORT"), 8080),
        https_port=_port(https, env.get(https), 0 if env.get("MAFUNZO_PORT") == "0" else 8443),
        listen=env.get("MAFUNZO_LISTEN") or "127.0.0.1",
        host_names=_list(env.get("MAFUNZO_HOST_NAMES")),
        cors_origins=_list(env.get("MAFUNZO_CORS_ORIGINS")),
        offline=_is_true(env.get("MAFUNZO_OFFLINE")) or _is_true(env.get("HF_HUB_OFFLINE")),
        input_hosts=tuple(host.strip() for host in env.get("MAFUNZO_INPUT_HOSTS", "").split(",") if host.strip()),
        authorities=Path(bundle) if (bundle := env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE")) else None,
        job_webhook=(env.get("MAFUNZO_JOB_WEBHOOK") or "").strip(),
        limits={name: text for name, text in env.items() if name.startswith("MAFUNZO_LIMIT_") and text},
        price_per_hour=_number("MAFUNZO_PRICE_PER_HOUR", env.get("MAFUNZO_PRICE_PER_HOUR"), _PRICE),
        step_folder=Path(env["MAFUNZO_STEP_FOLDER"]) if env.get("MAFUNZO_STEP_FOLDER") else None,
        memory_budget_mb=_number("MAFUNZO_MEMORY_BUDGET_MB", env.get("MAFUNZO_MEMORY_BUDGET_MB"), _BUDGET) or 0.0,
    )


def _port(name: str, text: str | None, default: int) -> int:
    from mafunzo.errors import InvalidParameter

    try:
        port = int(text or default)
    except ValueError as error:
        raise InvalidParameter(f"{name} is '{text}', expected a number from 0 to 65535.") from error
    if not 0 <= port <= 65535:
        raise InvalidParameter(f"{name} is {port}, expected a number from 0 to 65535.")
    return port


_PRICE = "what an hour costs as a number, 0 or more, like 0.35"
_BUDGET = "the megabytes that each process of a step may take as a number, 0 or more, like 6000"


def _number(name: str, text: str | None, expected: str) -> float | None:
    from mafunzo.errors import InvalidParameter

    if not (text or "").strip():
        return None
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InvalidParameter(f"{name} is '{text}', expected {expected}.")
    return number


def _list(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() in {"1", "true", "yes", "on"}
