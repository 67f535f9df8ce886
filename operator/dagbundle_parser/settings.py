"""The few settings of Airflow that decide what is listed, read without importing Airflow.

Skips are decided before Airflow is imported, which costs seconds. So the same places that Airflow reads are read
here: `AIRFLOW__SECTION__KEY`, then airflow.cfg, then Airflow's own default.
"""

from __future__ import annotations

import configparser
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

_TRUE = frozenset({"t", "true", "1"})


@dataclasses.dataclass(frozen=True)
class AirflowSettings:
    """What Airflow's configuration says about listing files.

    Attributes:
        home: AIRFLOW_HOME.
        config_file: the airflow.cfg that Airflow will read, whether or not it exists.
        ignore_syntax: `glob` or `regexp`, how `.airflowignore` is read.
        safe_mode: list only Python files that mention `airflow` and `dag` or `asset`.
        plugins_folder: where Airflow loads plugins from.
    """

    home: str
    config_file: str
    ignore_syntax: str
    safe_mode: bool
    plugins_folder: str

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> AirflowSettings:
        """Read the settings from the environment and from airflow.cfg, where there is one."""
        home = _expand(environ.get("AIRFLOW_HOME", "~/airflow"))
        config_file = _expand(environ.get("AIRFLOW_CONFIG", str(Path(home) / "airflow.cfg")))
        parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            parser.read_string(Path(config_file).read_text(encoding="utf-8"))
        except (OSError, ValueError, configparser.Error):
            parser = configparser.ConfigParser()  # Airflow itself complains, with a better message, when it is imported

        def get(key: str, default: str) -> str:
            value = environ.get(f"AIRFLOW__CORE__{key.upper()}")
            if value is None:
                value = parser.get("core", key, fallback=default)
            return (value or "").split("#")[0].strip()

        return cls(
            home=home,
            config_file=config_file,
            ignore_syntax=get("dag_ignore_file_syntax", "glob") or "glob",
            safe_mode=get("dag_discovery_safe_mode", "True").lower() in _TRUE,
            plugins_folder=_expand(get("plugins_folder", "").replace("{AIRFLOW_HOME}", home) or f"{home}/plugins"),
        )


def _expand(value: str) -> str:
    return os.path.expandvars(str(Path(value).expanduser()))
