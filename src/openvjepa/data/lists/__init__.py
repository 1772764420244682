"""Where lists of videos come from: folders, CSV files and plain lists, ActivityNet's JSON."""
