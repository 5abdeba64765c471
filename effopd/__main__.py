"""`python -m effopd` is `effopd`."""

import sys

from effopd.cli import main

sys.exit(main())
