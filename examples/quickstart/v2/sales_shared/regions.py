"""Where the team sells, and where it keeps its goods."""

REGIONS = ("north", "south", "overseas", "online")
WAREHOUSES = {"north": "Oslo", "south": "Milan", "overseas": "Halifax", "online": "Leipzig"}
