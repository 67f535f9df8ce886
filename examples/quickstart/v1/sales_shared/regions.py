"""Where the team sells, and where it keeps its goods."""

REGIONS = ("north", "south", "overseas")
DEPOTS = {"north": "Oslo", "south": "Milan", "overseas": "Halifax"}
