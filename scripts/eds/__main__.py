import sys

try:
    from eds.cli import main

    main()
except KeyboardInterrupt:
    # Also while the modules are being read, which takes some tenths of a second.
    sys.exit(130)
