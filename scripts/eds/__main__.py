import sys

try:
    from eds.base.console import outlive_the_reader
    from eds.cli import main

    outlive_the_reader()
    main()
except KeyboardInterrupt:
    # Also while the modules are being read, which takes some tenths of a second.
    sys.exit(130)
