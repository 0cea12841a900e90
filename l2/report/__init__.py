"""What runs and results say, for people: a page, the same for terminals, a model card. Made of their files alone."""
