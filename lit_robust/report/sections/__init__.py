"""The sections of a report: each a function of the models and the page's pictures."""
