"""People (or programs in their place) compare two answers: what they see, what is kept, and how far they agree."""
