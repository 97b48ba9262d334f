"""``vla_policy`` in a process that knows the family."""

from vla_ros.nodes.policy_node import main

raise SystemExit(main())
