"""Every reader of files that others may have written."""

from tests.long.fuzz import of_data, of_published, of_workdirs

CASES = {**of_data.CASES, **of_published.CASES, **of_workdirs.CASES}
