"""The Academy: experience -> curriculum -> professor -> habitat -> arena -> genealogy -> serving."""

__version__ = "0.1.0"
