"""Values that all packages share: they know no kernel, no file and no clock."""
