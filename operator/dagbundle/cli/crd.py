"""`crd`: prints the CustomResourceDefinition, generated from the models."""

from __future__ import annotations

import typer


def crd() -> None:
    """Print the DagBundle CustomResourceDefinition as YAML."""
    import yaml  # noqa: PLC0415 - keeps every other start fast

    from dagbundle.resources import crd as crds  # noqa: PLC0415 - likewise

    typer.echo(yaml.safe_dump(crds.definition(), sort_keys=False, width=100), nl=False)
