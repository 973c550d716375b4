"""Run one YAML: `python test.py --conf_path confs/shadow.yml`; see guided_diffusion/cli.py."""

import sys

from guided_diffusion.cli import main

if __name__ == "__main__":
    sys.exit(main())
