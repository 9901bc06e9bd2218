"""Made data: what is planted to see whether it is found."""
