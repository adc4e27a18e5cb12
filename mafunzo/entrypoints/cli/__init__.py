"""The command line: Azure ML's nouns and verbs over `Workspace`."""
