"""The models of everything that crosses a boundary: the DagBundle, grants, the manifest, the wire protocol. No I/O."""
