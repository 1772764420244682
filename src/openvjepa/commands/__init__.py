"""What each verb does: check the settings, do the work, write the files, return a result."""
