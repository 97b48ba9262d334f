"""``vla_model`` in a process that knows the family."""

from vla_ros.nodes.model_node import main

raise SystemExit(main())
