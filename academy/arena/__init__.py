"""5. Challenger against champion."""
