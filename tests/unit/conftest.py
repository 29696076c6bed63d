"""How hypothesis searches here: as long as it takes, for a slow machine is no fault."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
