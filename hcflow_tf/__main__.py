"""`python -m hcflow_tf` is `hcflow`."""

from hcflow_tf.support import cli

raise SystemExit(cli.main())
