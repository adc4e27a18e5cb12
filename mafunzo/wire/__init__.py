"""Pure translation between our entities and other people's JSON and YAML."""
