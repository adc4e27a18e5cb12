"""What ways in show on a terminal: tables, reports, progress."""
