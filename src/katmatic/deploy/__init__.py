"""Files that we write for others: containers, clusters, schedulers, alert rules."""
