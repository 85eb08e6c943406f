"""The tests; a package, since libraries leave packages of this name in site-packages, which would be found instead."""
