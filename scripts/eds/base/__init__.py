"""What all other packages use: settings, console, errors, files, programs, journal, disk space, states of services."""
