"""``python -m vla_ros.cli``."""

import sys

from vla_ros.cli.command_line import main

sys.exit(main())
