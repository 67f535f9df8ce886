"""SinglePass (AIP-85's SinglePassBundleParser): one pass, update what was parsed, deactivate the stale, end."""

from __future__ import annotations

from typing import ClassVar

from dagbundle_parser import __version__
from dagbundle_parser.parsers.base import AbstractBundleParser


class SinglePassBundleParser(AbstractBundleParser):
    """Parses every file that has changed once, for bundles that do not change while they are deployed."""

    name: ClassVar[str] = "SinglePass"
    version: ClassVar[str] = __version__

    def run(self) -> None:
        """Confirm what is unchanged, load the rest, and close with the full listing, which deactivates the stale."""
        files = self.bundle.list_files()
        self.store.open(parser={"name": self.name, "version": self.version}, facts=self.bundle.facts, files=len(files))
        changed = []
        for file in files:
            if file.problem is None and self.bundle.is_unchanged(file):
                self.store.confirm_unchanged(file.path)
            else:
                changed.append(file)
        for record in self.bundle.load(changed):
            self.store.submit(record)
        self.store.close()
