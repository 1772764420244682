"""How labeled videos are divided: what must stay together, and lists with a column of splits or folds."""
