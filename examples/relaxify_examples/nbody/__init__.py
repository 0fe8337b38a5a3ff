"""The charged N-body experiment that `relaxify demo` runs."""
