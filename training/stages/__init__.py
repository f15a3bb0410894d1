"""Progressive training: stages in rounds, each planned, trained, evaluated and looked at."""
