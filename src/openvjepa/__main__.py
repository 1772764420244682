"""`python -m openvjepa`: the same as `vjepa`."""

from openvjepa.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
