"""Run one YAML: `python test.py --conf_path confs/shadow.yml`; see guided_diffusion/cli.py."""

import sys

from guided_diffusion.runners.arguments import parse

if __name__ == "__main__":
    parse(None)  # --help, --list, --version and mistakes are answered before torch is loaded
    from guided_diffusion.cli import main

    sys.exit(main())
