"""What tests do otherwise where a sanitizer looks at the daemons."""
import os


def is_there():
    return "ASAN_OPTIONS" in os.environ
