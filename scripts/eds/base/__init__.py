"""What everything stands on: settings, console, errors."""
