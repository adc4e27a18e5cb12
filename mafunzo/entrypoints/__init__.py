"""How people and programs get in: each way in translates its own words into entities and verbs, and back."""
