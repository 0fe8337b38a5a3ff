"""Does relaxing help? Paired trainings of several systems, their results, and the page that is written from these."""
